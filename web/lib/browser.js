// All features of an SAE in a list that is drawn only where it is looked at, so that tens of thousands scroll as ten do.
import { explain } from "./card.js";
import { addElement, el, makeRoom, shield, short } from "./dom.js";
import { executionId, originOf, rootGraph, saeSource } from "./graph.js";
import { nameCell, RENAMED } from "./names.js";
import { featureCard, picture } from "./pictures.js";
import { browseFeatures } from "./server.js";
import { take } from "./take.js";

const NAME = "sae_steering_browser";
const TYPE = "sae_steering.browser";
const ROW = 34; // units of height
const PAGE = 50; // features that are asked for at once
const BEYOND = 6; // rows that are drawn above and below what is seen
const HEIGHT = 360;
const WIDTH = 460;
const MOST_PAGES = 40; // that are kept
const PAUSE = 200; // milliseconds after the last key
const REST = 60; // milliseconds after the last scrolling
const RAREST = 1e-6; // where the bar of a density ends
const SORTS = { number: "by number", name: "by name", density: "most often first", rarity: "rarest first" };

const views = new Map(); // what was looked for and where, by graph and node: lives as long as the page

/** The list of a node, where it has one. */
export function browserOf(node) {
  return node.widgets?.find((widget) => widget.saeSteeringBrowser)?.saeSteeringBrowser;
}

/** Gives a node its list; it has no value, so it is left out of saved workflows and prompts. */
export function createBrowser(node) {
  const browser = new Browser(node);
  const widget = addElement(node, NAME, TYPE, browser.element, () => HEIGHT, { serialize: false });
  widget.serialize = false;
  widget.saeSteeringBrowser = browser;
  const [removed, connected] = [widget.onRemove, node.onConnectionsChange];
  widget.onRemove = function (...args) {
    browser.close();
    return removed?.apply(this, args);
  };
  node.onConnectionsChange = function (...args) {
    queueMicrotask(() => browser.follow());
    return connected?.apply(this, args);
  };
  makeRoom(node, browser.element, HEIGHT, WIDTH);
}

class Browser {
  constructor(node) {
    this.node = node;
    this.known = undefined; // {fingerprint, origin}: of an SAE that only a run could tell
    this.asked = undefined; // the source that the list is of, as text
    this.sae = undefined; // what the server told of it, with the `total` of the list
    this.pages = new Map(); // by number, the oldest first: the features, or `true` while they are asked for
    this.rows = new Map(); // by place in the list: what is drawn
    this.round = 0; // answers to earlier questions are not shown
    this.field = el("input", {
      className: "sae-steering-search", type: "search", placeholder: "search: number or name", "aria-label": "Search features",
      oninput: () => {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.look(), PAUSE);
      },
      onkeydown: (event) => event.stopPropagation(),
    });
    this.sort = el(
      "select",
      { "aria-label": "Order", onchange: () => this.look() },
      ...Object.entries(SORTS).map(([value, textContent]) => el("option", { value, textContent })),
    );
    this.title = el("div", { className: "sae-steering-title" });
    this.space = el("ol", { className: "sae-steering-space", "aria-label": "Features" });
    this.window = shield(el("div", { className: "sae-steering-window", tabIndex: 0, onscroll: () => this.scrolled() }, this.space));
    this.message = el("div", { className: "sae-steering-message", role: "status" });
    const head = el("div", { className: "sae-steering-head" }, this.field, this.sort);
    const columns = ["feature", "name", "fires on", "of all tokens", ""].map((textContent) => el("span", { textContent }));
    this.heads = el("div", { className: "sae-steering-heads sae-steering-quiet", hidden: true }, ...columns);
    this.element = shield(
      el("div", { className: "sae-steering sae-steering-browser" }, head, this.title, this.heads, this.window, this.message),
    );
    this.element.addEventListener(RENAMED, () => this.refresh());
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.window);
    this.tell("Connect an SAE.");
  }

  close() {
    this.sizes.disconnect();
    clearTimeout(this.timer);
    clearTimeout(this.later);
  }

  tell(text) {
    this.message.textContent = text;
  }

  /** Where the SAE comes from: a loader that the server can ask, else what a run told of the same origin. */
  get source() {
    const told = this.known && this.known.origin === this.origin ? { fingerprint: this.known.fingerprint } : undefined;
    return saeSource(this.node) ?? told;
  }

  get origin() {
    const found = originOf(this.node, "sae");
    return found && `${found.node.id} ${found.slot}`;
  }

  /** What a run told of the SAE. */
  know({ fingerprint }) {
    this.known = { fingerprint, origin: this.origin };
    this.follow();
  }

  /** Shows the features of the SAE that is connected now. */
  follow() {
    const asked = JSON.stringify(this.source);
    if (asked !== undefined && asked === this.asked) return;
    this.asked = asked;
    if (asked === undefined) {
      this.begin();
      this.tell(this.origin ? "Run once: only then is it known which SAE this node is given." : "Connect an SAE.");
      return;
    }
    const { words = "", sort = "number", top = 0 } = views.get(this.key) ?? {};
    [this.field.value, this.sort.value] = [words, sort];
    this.begin();
    this.load(0, top);
  }

  get key() {
    return `${rootGraph()?.id}/${executionId(this.node)}`;
  }

  /** Other words, or another order. */
  look() {
    this.begin();
    this.remember();
    if (this.source) this.load(0);
  }

  remember() {
    views.set(this.key, { words: this.field.value, sort: this.sort.value, top: this.window.scrollTop });
  }

  begin() {
    this.round += 1;
    this.sae = undefined;
    this.pages.clear();
    this.rows.clear();
    this.space.replaceChildren();
    this.space.style.height = "0";
    this.title.textContent = "";
    this.heads.hidden = true;
    this.tell("");
  }

  /** Asks again for what is seen, such as after a run that made pictures; what is drawn stays until then. */
  refresh() {
    if (!this.sae) return;
    this.pages.clear();
    this.draw();
  }

  async load(page, top) {
    const { round } = this;
    this.pages.set(page, true);
    const query = { q: this.field.value.trim(), sort: this.sort.value, first: page * PAGE, many: PAGE };
    let found;
    try {
      found = await browseFeatures(this.source, query);
    } catch (error) {
      if (round !== this.round) return;
      this.pages.delete(page);
      this.tell(error.message);
      return;
    }
    if (round !== this.round) return;
    const { gallery, features } = found;
    this.pages.set(page, features.map((feature) => ({ ...feature, gallery })));
    if (this.pages.size > MOST_PAGES) this.pages.delete(this.pages.keys().next().value);
    for (let at = page * PAGE; at < (page + 1) * PAGE; at++) this.drop(at);
    this.show(found);
    if (top) this.window.scrollTop = top;
    this.draw();
  }

  show(found) {
    const { total, count, sae, fingerprint, has_density: hasDensity, warnings } = found;
    this.sae = found;
    this.element.setAttribute("data-fingerprint", fingerprint);
    this.space.style.height = `${total * ROW}px`;
    this.heads.hidden = !total;
    this.title.textContent = total === count ? `${sae}: ${count} features` : `${sae}: ${total} of ${count} features`;
    for (const option of this.sort.options) option.disabled = !hasDensity && ["density", "rarity"].includes(option.value);
    this.tell(total ? warnings.join(" ") : this.missing(count));
  }

  missing(count) {
    const number = /^\d+$/.test(this.field.value.trim());
    return number ? `This SAE has the features 0 to ${count - 1}.` : "No feature has that name.";
  }

  scrolled() {
    if (!this.sae) return; // the list was emptied
    this.remember();
    this.draw();
  }

  /** The places in the list that are seen, and some beyond: [first, last). */
  seen() {
    const { scrollTop, clientHeight } = this.window;
    if (!this.sae || !clientHeight) return [0, 0]; // it is not on the screen
    const last = Math.ceil((scrollTop + clientHeight) / ROW) + BEYOND;
    return [Math.max(0, Math.floor(scrollTop / ROW) - BEYOND), Math.min(this.sae.total, last)];
  }

  /** Draws the rows that are seen; those that are not known yet are asked for when the scrolling rests. */
  draw() {
    const [first, last] = this.seen();
    for (const at of this.rows.keys()) if (at < first || at >= last) this.drop(at);
    for (let at = first; at < last; at++) {
      const feature = this.pages.get(Math.floor(at / PAGE))?.[at % PAGE];
      if (feature && !this.rows.has(at)) this.place(at, feature);
    }
    clearTimeout(this.later);
    this.later = setTimeout(() => this.askForSeen(), REST);
  }

  askForSeen() {
    const [first, last] = this.seen();
    for (let page = Math.floor(first / PAGE); page * PAGE < last; page++) if (!this.pages.has(page)) this.load(page);
  }

  drop(at) {
    this.rows.get(at)?.remove();
    this.rows.delete(at);
  }

  place(at, feature) {
    const row = this.rowOf(feature);
    row.style.top = `${at * ROW}px`;
    row.setAttribute("aria-posinset", at + 1);
    row.setAttribute("aria-setsize", this.sae.total);
    this.rows.set(at, row);
    const next = [...this.rows.keys()].filter((other) => other > at).sort((one, other) => one - other)[0];
    this.space.insertBefore(row, this.rows.get(next) ?? null); // in the order of the keyboard
  }

  rowOf(feature) {
    const { gallery } = feature;
    const name = nameCell(el("span", { className: "sae-steering-called", textContent: feature.name ?? "" }), feature.feature);
    const pictures = (feature.pictures ?? []).map((one) => picture(one, gallery, feature.feature));
    const row = el(
      "li",
      { onclick: () => take(this.sae, feature) },
      el("span", { className: "sae-steering-index", textContent: feature.feature }),
      name,
      el("span", { className: "sae-steering-pictures" }, ...pictures),
      density(feature.share),
      el("button", {
        type: "button", className: "sae-steering-take", textContent: "+", title: "Add to a Feature Mixer",
        "aria-label": `Add feature ${feature.feature} to a Feature Mixer`,
      }),
    );
    explain(name, async () => featureCard(feature, { pictures: feature.pictures ?? [], gallery }));
    return row;
  }
}

/** How often a feature fires, with a bar on a logarithmic scale. */
function density(share) {
  const known = Number.isFinite(share);
  const inner = el("i");
  inner.style.width = `${known && share > 0 ? Math.max(0, 100 * (1 - Math.log(share) / Math.log(RAREST))) : 0}%`;
  const told = known ? (share > 0 ? `${short(100 * share)} %` : "never") : "";
  return el(
    "span",
    { className: "sae-steering-bar", title: known ? "Of the tokens on which it was measured" : "" },
    known ? el("span", { className: "sae-steering-gauge" }, inner) : undefined,
    el("span", { textContent: told }),
  );
}
