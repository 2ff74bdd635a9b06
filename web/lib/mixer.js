// The panel of FeatureMixer: one row a feature. Its value is a JSON text, see mix.js.
import { createAdder } from "./adder.js";
import { el, shield } from "./dom.js";
import { asOneChange, saeSource } from "./graph.js";
import { createRow } from "./mixer_row.js";
import { EMPTY, merged, move, parse, rowOf, write } from "./mix.js";
import { renamed } from "./names.js";
import { findFeatures, rename } from "./server.js";

const ROW_HEIGHT = 34;
const OTHER_HEIGHT = 74;
const MOST_SHOWN = 8; // rows; beyond these the list scrolls
const TYPE = "sae_steering.mix"; // no type of core's, which would take the widget over

/** The widget of an input of type SAE_STEERING_MIX. */
export function createMixer(node, name, preset = EMPTY) {
  const panel = new Mixer(node, preset);
  const widget = node.addDOMWidget(name, TYPE, panel.element, {
    getValue: () => write(panel.state),
    setValue: (value) => panel.load(value),
    getMinHeight: () => panel.height,
    margin: 6,
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
    this.warnings = []; // of its last answer
    this.changed = () => {};
    this.list = el("ol", { className: "sae-steering-rows", "aria-label": "Features" });
    this.message = el("div", { className: "sae-steering-message", role: "status" });
    this.adder = createAdder({
      find: (words) => this.find(words),
      add: (feature) => this.add(feature),
      count: () => this.count,
    });
    this.element = shield(
      el("div", { className: "sae-steering sae-steering-mixer" }, this.adder, this.list, this.message),
    );
    this.render();
  }

  get height() {
    return OTHER_HEIGHT + ROW_HEIGHT * Math.min(Math.max(this.state.rows.length, 1), MOST_SHOWN);
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

  render(focus) {
    const { rows, broken } = this.state;
    this.list.replaceChildren(...rows.map((row, at) => createRow(this, this.seen(row), at)));
    if (broken !== undefined) this.tell("This value is no list of features; adding one replaces it.");
    else if (!rows.length) this.tell("Add a feature by number or name, or by a click in a table of features.");
    else this.tell("");
    this.fit();
    if (focus) this.list.querySelector(`[data-at="${focus.at}"] ${focus.what}`)?.focus();
  }

  seen(row) {
    return this.isForeign(row) ? row : merged(row, this.known.get(row.feature));
  }

  tell(text) {
    this.message.textContent = text;
  }

  /** Makes the node as high as its rows need; whatever the user made larger stays. */
  fit() {
    const { node } = this;
    if (!node.widgets?.length || !node.computeSize) return;
    const [, least] = node.computeSize();
    if (node.size[1] < least) node.setSize([node.size[0], least]);
    node.graph?.setDirtyCanvas?.(true, true);
  }

  /** One step of undo: changes the rows, and draws them anew. */
  change(edit, focus) {
    asOneChange(() => {
      const rows = edit([...this.state.rows]);
      this.state = { rows };
      this.render(focus);
      this.changed();
    });
  }

  /** While a slider moves: the value follows, and the step of undo comes when it is let go. */
  slide(at, strength) {
    this.state.rows[at] = { ...this.state.rows[at], strength };
    this.changed();
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

  set(at, change, focus) {
    // another unit rests on what is known of the feature, so that goes into the value with it
    const old = (row) => ("unit" in change ? this.seen(row) : row);
    this.change((rows) => rows.map((row, index) => (index === at ? { ...old(row), ...change } : row)), focus);
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
    const found = saeSource(this.node);
    return found ?? (this.fingerprint ? { fingerprint: this.fingerprint } : undefined);
  }

  async find(query) {
    const { source } = this;
    if (!source) throw new Error("Connect an SAE, or run once, so that its names are known.");
    const found = await findFeatures(source, query);
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
    const { rows } = this.state;
    if (!rows.length || !this.source) return;
    let known;
    try {
      known = await this.find({ index: rows.slice(0, 200).map((row) => row.feature).join(",") });
    } catch (error) {
      this.tell(error.message);
      return;
    }
    for (const feature of known) this.known.set(feature.feature, feature);
    if (!this.list.contains(document.activeElement)) this.render();
    if (this.warnings.length) this.tell(this.warnings.join(" "));
  }

  async rename(at, name) {
    const row = this.state.rows[at];
    const { feature } = row;
    this.set(at, { name: name || undefined });
    try {
      const owner = await this.whose(feature);
      if (this.isForeign(row)) throw new Error(`feature ${feature} is of ${row.owner.name}, but ${owner.name} is connected.`);
      const { warnings } = await rename(this.fingerprint, feature, name);
      renamed(this.fingerprint, feature, name);
      this.known.delete(feature);
      this.tell(warnings.join(" ") || (name ? `Feature ${feature} is called “${name}”.` : `Feature ${feature} has no name.`));
    } catch (error) {
      this.render(); // the row may turn out to be of another SAE
      this.tell(`The name stays in this panel only: ${error.message}`);
    }
  }
}
