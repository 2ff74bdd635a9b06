// The panel of FeatureMixer: one row a feature. Its value is a JSON text, see mix.js.
import { createAdder } from "./adder.js";
import { addElement, el, makeRoom, shield } from "./dom.js";
import { asOneChange, saeSource } from "./graph.js";
import { meaningFor } from "./meaning.js";
import { changed, EMPTY, merged, move, parse, reset, rowOf, write } from "./mix.js";
import { Row } from "./mixer_row.js";
import { createTools } from "./mixer_tools.js";
import { renamed } from "./names.js";
import { featureCard, picturesOf } from "./pictures.js";
import { acceptRecipes, createPresets } from "./presets.js";
import { featuresOf, findFeatures, rename } from "./server.js";

const ROW_HEIGHT = 27;
const TALL_ROW_HEIGHT = 52; // of two lines
const NARROW = 470; // units of width below which a row takes two lines, as in sae_steering.css
const OTHER_HEIGHT = 66;
const TOOLS_HEIGHT = 28;
const MOST_SHOWN = 8; // rows; beyond these the list scrolls
const TYPE = "sae_steering.mix"; // no type of core's, which would take the widget over

/** The widget of an input of type SAE_STEERING_MIX. */
export function createMixer(node, name, preset = EMPTY) {
  const panel = new Mixer(node, preset);
  const widget = addElement(node, name, TYPE, panel.element, () => panel.height, {
    getValue: () => write(panel.state),
    setValue: (value) => panel.load(value),
  });
  widget.saeSteeringPanel = panel;
  panel.changed = () => widget.callback?.(widget.value);
  return widget;
}

/** The panel of a node, where it has one. */
export function panelOf(node) {
  return node.widgets?.find((widget) => widget.saeSteeringPanel)?.saeSteeringPanel;
}

class Mixer {
  constructor(node, preset) {
    this.node = node;
    this.state = parse(preset);
    this.fingerprint = undefined;
    this.owner = undefined; // {identity, name} of the SAE, by its content
    this.count = undefined;
    this.known = new Map(); // by feature: what the server told
    this.rows = []; // what is drawn, in the order of the panel
    this.warnings = []; // of its last answer
    this.changed = () => {};
    this.narrow = false;
    this.meaningHeight = 0; // as it was last seen on the screen
    this.tools = createTools(this);
    this.list = el("ol", { className: "sae-steering-rows", "aria-label": "Features" });
    this.meaning = el("div", { className: "sae-steering-meaning sae-steering-quiet" });
    this.message = el("div", { className: "sae-steering-message", role: "status" });
    this.adder = createAdder({
      find: (words) => this.find(words),
      pictures: (features) => picturesOf(this.source, features),
      add: (feature) => this.add(feature),
      count: () => this.count,
    });
    const presets = createPresets(this);
    this.element = shield(
      el(
        "div", { className: "sae-steering sae-steering-mixer" },
        el("div", { className: "sae-steering-head" }, this.adder, presets), this.tools.element, this.list, this.meaning, this.message,
      ),
    );
    acceptRecipes(this.element, this);
    const sizes = new ResizeObserver(() => this.measure());
    for (const part of [this.list, this.meaning]) sizes.observe(part);
    this.render();
  }

  get height() {
    const { length } = this.state.rows;
    const row = this.narrow ? TALL_ROW_HEIGHT : ROW_HEIGHT;
    const rows = row * Math.min(Math.max(length, 1), MOST_SHOWN);
    return OTHER_HEIGHT + (length && TOOLS_HEIGHT) + this.meaningHeight + rows;
  }

  /** Takes a value over, as it was saved, undone or pasted. */
  load(value) {
    this.state = parse(value);
    this.render();
    if (this.state.rows.length) queueMicrotask(() => this.ask());
  }

  /** What a run, a table or the server told of the SAE; what was known of another one is forgotten. */
  know(sae) {
    if (this.fingerprint !== sae.fingerprint) this.known.clear();
    this.fingerprint = sae.fingerprint;
    this.owner = sae.owner ?? undefined;
    this.count = sae.count;
  }

  /** Whether a row's numbers are another SAE's. */
  isForeign(row) {
    return Boolean(row.owner && this.owner && row.owner.identity !== this.owner.identity);
  }

  /** Asks whose features these are now: the loader may have been set to another SAE since. */
  async whose(feature) {
    await this.find({ index: String(feature) });
    return this.owner;
  }

  /** Draws the rows as they are now, and says what is missing; `focus` is {at, what}, where the keyboard goes then. */
  render(focus) {
    const { rows, broken } = this.state;
    this.draw(focus);
    this.tools.draw(this.state);
    this.explain();
    if (broken !== undefined) this.tell("This value is no list of features; adding one replaces it.");
    else if (!rows.length) this.tell("Add a feature by number or name, or by a click in a table of features.");
    else this.tell("");
    this.fit();
  }

  /** Each feature keeps the elements of its row, so that a press or a text on its way is not lost. */
  draw(focus) {
    const held = focus ?? this.held();
    const free = [...this.rows];
    this.rows = this.state.rows.map(({ feature }) => {
      const at = free.findIndex((row) => row.feature === feature);
      return at >= 0 ? free.splice(at, 1)[0] : new Row(this, feature);
    });
    for (const row of free) row.element.remove();
    this.rows.forEach((row, at) => {
      row.draw(this.seen(this.state.rows[at]), at);
      if (this.list.children[at] !== row.element) this.list.insertBefore(row.element, this.list.children[at] ?? null);
    });
    if (held && (focus || !this.list.contains(document.activeElement))) this.focus(held);
  }

  /** The control of a row that somebody works with the keyboard. */
  held() {
    const control = this.list.querySelector(":focus-visible");
    if (!control) return undefined;
    const what = control.className ? `.${control.className}` : "[type=checkbox]";
    return { at: Number(control.closest("li").dataset.at), what };
  }

  focus({ at, what }) {
    const row = this.rows[Math.min(at, this.rows.length - 1)]?.element;
    (row?.querySelector(what) ?? this.adder.querySelector("input")).focus();
  }

  seen(row) {
    return this.isForeign(row) ? row : merged(row, this.known.get(row.feature));
  }

  named(row) {
    const name = !this.isForeign(row) && this.known.get(row.feature)?.name;
    return name ? { ...row, name } : row;
  }

  /** What hovers over a row: its pictures, and what is known of the feature. */
  async cardOf(row) {
    const { source } = this;
    if (!source || this.isForeign(row)) return undefined;
    const found = await picturesOf(source, [row.feature]).catch(() => undefined);
    const note = this.known.get(row.feature)?.note;
    return found && featureCard({ ...this.seen(row), note }, found.get(row.feature));
  }

  tell(text) {
    this.message.textContent = text;
  }

  /** Tells what a strength does with the method that the panel's features are steered with. */
  explain() {
    const told = this.state.rows.length ? meaningFor(this.node) : "";
    if (this.meaning.textContent !== told) this.meaning.textContent = told;
  }

  fit() {
    if (this.element.clientWidth) this.meaningHeight = this.meaning.offsetHeight; // at once: it belongs to this step of undo
    makeRoom(this.node, this.element, this.height);
  }

  /** Where the panel is narrow, rows and sentences take more lines, so it must be higher. */
  measure() {
    const [width, height] = [this.element.clientWidth, this.meaning.offsetHeight];
    if (!width) return; // it is not on the screen
    if (width < NARROW === this.narrow && height === this.meaningHeight) return;
    this.narrow = width < NARROW;
    this.meaningHeight = height;
    this.fit();
  }

  /** One step of undo: changes the rows, and draws them; names that were given since go into the value with it. */
  change(edit, focus) {
    asOneChange(() => {
      const rows = edit([...this.state.rows]).map((row) => this.named(row));
      this.state = { rows, strength: this.state.strength };
      this.render(focus);
      this.changed();
    });
  }

  /** While a slider moves: the value follows, and the step of undo comes when it is let go. */
  slide(at, strength) {
    const rows = this.state.rows.map((row, index) => (index === at ? changed(row, { strength }) : row));
    this.state = { ...this.state, rows };
    this.rows[at].row = this.seen(rows[at]);
    this.changed();
  }

  slideAll(strength) {
    this.state = { ...this.state, strength };
    this.changed();
  }

  strengthen(strength) {
    asOneChange(() => {
      this.slideAll(strength);
      this.tools.draw(this.state);
    });
  }

  setAll(change) {
    this.change((rows) => rows.map((row) => ({ ...row, ...change })));
  }

  reset() {
    asOneChange(() => {
      this.state = { ...this.state, strength: 1 };
      this.change((rows) => rows.map(reset));
    });
  }

  /** Takes over what a recipe says, in place of all rows, and tells what else it says. */
  async adopt(mix, told) {
    asOneChange(() => {
      this.state = parse(JSON.stringify(mix));
      this.render();
      this.changed();
    });
    await this.ask();
    this.tell([told, ...this.warnings].join(" "));
  }

  solo(at) {
    this.change((rows) => rows.map((row, index) => (index === at ? { ...row, solo: row.solo ? undefined : true } : row)));
  }

  add(feature) {
    const at = this.state.rows.findIndex((row) => row.feature === feature.feature);
    if (at >= 0) {
      this.render({ at, what: ".sae-steering-slider" });
      this.tell(`Feature ${feature.feature} is in the panel already.`);
      return;
    }
    const row = rowOf(feature, this.owner);
    this.change((rows) => [...rows, row]);
    this.ask();
  }

  set(at, change) {
    // another unit rests on what is known of the feature, so that goes into the value with it
    const old = (row) => ("unit" in change ? this.seen(row) : row);
    this.change((rows) => rows.map((row, index) => (index === at ? changed(old(row), change) : row)));
  }

  remove(at) {
    this.change((rows) => rows.filter((row, index) => index !== at));
  }

  move(from, to) {
    const last = this.state.rows.length - 1;
    const target = Math.min(Math.max(to, 0), last);
    if (target !== from) this.change((rows) => move(rows, from, target), { at: target, what: ".sae-steering-handle" });
  }

  get source() {
    if (!this.node.graph) return undefined; // undo has put another node in its place
    const found = saeSource(this.node);
    return found ?? (this.fingerprint ? { fingerprint: this.fingerprint } : undefined);
  }

  async find(query) {
    const { source } = this;
    if (!source) throw new Error("Connect an SAE, or run once, so that its names are known.");
    return this.heard(await findFeatures(source, query));
  }

  /** Takes over what an answer tells of the SAE; its features. */
  heard(found) {
    this.warnings = found.warnings ?? [];
    if (found.fingerprint) this.know({ ...found, count: found.count ?? this.count, owner: found.owner ?? this.ownerOf(found) });
    return found.features;
  }

  /** A server that knows only the fingerprint cannot tell the owner: it stays while the fingerprint does. */
  ownerOf(found) {
    return found.fingerprint === this.fingerprint ? this.owner : undefined;
  }

  /** Asks what is known of the rows' features now: names, statistics, ranges. What is not known stays as it is. */
  async ask() {
    const { state: { rows }, source } = this;
    if (!rows.length || !source) return;
    let known;
    try {
      known = this.heard(await featuresOf(source, rows.map((row) => row.feature)));
    } catch (error) {
      this.tell(error.message);
      return;
    }
    for (const feature of known) this.known.set(feature.feature, feature);
    this.render();
    if (this.warnings.length) this.tell(this.warnings.join(" "));
  }

  /**
   * The name is kept for the SAE, where all see it. It is no change of the value, which undo could not take back, unless it
   * can be kept nowhere else.
   */
  async rename(at, name) {
    const row = this.state.rows[at];
    const { feature } = row;
    let told;
    try {
      const owner = await this.whose(feature);
      if (this.isForeign(row)) throw new Error(`feature ${feature} is of ${row.owner.name}, but ${owner.name} is connected.`);
      const { warnings } = await rename(this.fingerprint, feature, name);
      renamed(this.fingerprint, feature, name);
      this.known.set(feature, { ...this.known.get(feature), name });
      if (!name && row.name) this.call(feature, undefined);
      told = warnings.join(" ") || (name ? `Feature ${feature} is called “${name}”.` : `Feature ${feature} has no name.`);
    } catch (error) {
      this.call(feature, name || undefined); // the row may also turn out to be of another SAE
      told = `The name stays in this panel only: ${error.message}`;
    }
    this.render();
    this.tell(told);
  }

  call(feature, name) {
    this.change((rows) => rows.map((row) => (row.feature === feature ? { ...row, name } : row)));
  }
}
