// Two pictures in one panel: a line to move between them, side by side, or one that gives way while it is held.
import { addElement, el, makeRoom, shield } from "./dom.js";
import { createFrame, shareOf } from "./frame.js";

const NAME = "sae_steering_compare";
const TYPE = "sae_steering.compare";
const KEPT = "sae_steering_compare"; // the way that was chosen, in the node's properties
const HEIGHT = 230;
const WIDTH = 380;
const WAYS = { wipe: "wipe", beside: "side by side", hold: "hold to compare" };
const HINTS = {
  wipe: "Move over the picture.",
  beside: "",
  hold: "Hold the mouse down on the picture, or the space bar, to see it as it was before.",
};
const NOTHING = "Run once: then the two pictures are here.";

/** The panel of a node, where it has one. */
export function compareOf(node) {
  return node.widgets?.find((widget) => widget.saeSteeringCompare)?.saeSteeringCompare;
}

/** Gives a node its panel; it has no value, so it is left out of saved workflows and prompts. */
export function createCompare(node) {
  const panel = new Compare(node);
  const widget = addElement(node, NAME, TYPE, panel.element, () => HEIGHT, { serialize: false });
  widget.serialize = false;
  widget.saeSteeringCompare = panel;
  makeRoom(node, panel.element, HEIGHT, WIDTH);
}

class Compare {
  constructor(node) {
    this.node = node;
    this.pairs = [];
    this.at = 0;
    this.ways = el("div", { className: "sae-steering-ways", role: "radiogroup", "aria-label": "How to compare" },
      ...Object.entries(WAYS).map(([way, textContent]) => el("button", {
        type: "button", role: "radio", "data-way": way, textContent, onclick: () => this.choose(way),
      })));
    this.count = el("span", { className: "sae-steering-quiet" });
    this.pages = el(
      "div", { className: "sae-steering-pages", hidden: true },
      el("button", { type: "button", textContent: "‹", title: "The pair before", onclick: () => this.turn(-1) }),
      this.count,
      el("button", { type: "button", textContent: "›", title: "The next pair", onclick: () => this.turn(1) }),
    );
    this.over = createFrame("sae-steering-over");
    this.other = createFrame();
    this.line = el("input", {
      className: "sae-steering-line", type: "range", min: 0, max: 100, step: 1, value: 50,
      "aria-label": "Where before ends and after begins, in percent", oninput: () => this.wipe(this.line.valueAsNumber / 100),
    });
    this.captions = ["before", "after"].map((text) => el("span", { className: `sae-steering-caption sae-steering-${text}`, textContent: text }));
    this.stage = el("div", { className: "sae-steering-stage", tabIndex: 0 }, this.over.element, this.other.element);
    this.message = el("div", { className: "sae-steering-message", role: "status" });
    this.element = shield(el(
      "div", { className: "sae-steering sae-steering-compare" },
      el("div", { className: "sae-steering-head" }, this.ways, this.pages), this.stage, this.line, this.message,
    ));
    this.listen();
    this.draw();
  }

  get way() {
    const kept = this.node.properties?.[KEPT];
    return kept in WAYS ? kept : "wipe";
  }

  listen() {
    const { element } = this.over;
    element.addEventListener("pointermove", (event) => this.way === "wipe" && this.wipe(shareOf(event, element)[0]));
    const hold = (held) => this.way === "hold" && this.reveal(held);
    this.stage.addEventListener("pointerdown", () => hold(true));
    for (const end of ["pointerup", "pointerleave", "pointercancel", "blur"]) this.stage.addEventListener(end, () => hold(false));
    for (const kind of ["keydown", "keyup"]) {
      this.stage.addEventListener(kind, (event) => {
        if (event.key !== " " || this.way !== "hold") return;
        event.preventDefault();
        event.stopPropagation(); // core moves the canvas with it
        hold(kind === "keydown");
      });
    }
    this.stage.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || this.pairs.length < 2) return;
      event.preventDefault();
      event.stopPropagation();
      this.turn(by);
    });
  }

  /** Takes over what a run showed: lists of files, `before` and `after`; of one picture in one of them each pair has it. */
  show({ before = [], after = [] }) {
    const many = before.length && after.length ? Math.max(before.length, after.length) : 0;
    const pick = (files, at) => files[files.length === 1 ? 0 : at];
    this.pairs = Array.from({ length: many }, (_, at) => [pick(before, at), pick(after, at)]).filter((pair) => pair.every(Boolean));
    this.at = Math.min(this.at, Math.max(this.pairs.length - 1, 0));
    this.draw();
  }

  choose(way) {
    this.node.properties ??= {};
    this.node.properties[KEPT] = way;
    this.draw();
  }

  turn(by) {
    const { length } = this.pairs;
    this.at = (this.at + by + length) % length;
    this.draw();
  }

  draw() {
    const { way, pairs, at } = this;
    for (const button of this.ways.children) button.setAttribute("aria-checked", String(button.dataset.way === way));
    this.pages.hidden = pairs.length < 2;
    this.count.textContent = `${at + 1} of ${pairs.length}`;
    this.element.setAttribute("data-way", way);
    this.element.classList.toggle("sae-steering-empty", !pairs.length);
    this.stage.setAttribute("aria-label", pairs.length ? `${WAYS[way]}: before and after` : NOTHING);
    this.message.textContent = pairs.length ? HINTS[way] : NOTHING;
    const pair = pairs[at] ?? [];
    const beside = way === "beside";
    const images = this.over.load(beside ? pair.slice(0, 1) : pair);
    this.other.load(beside ? pair.slice(1) : []);
    this.top = beside ? undefined : images[1];
    const [before, after] = this.captions;
    this.over.element.append(before);
    (beside ? this.other : this.over).element.append(after);
    for (const caption of this.captions) caption.hidden = !pairs.length;
    if (way === "wipe") this.wipe(this.line.valueAsNumber / 100);
    else if (way === "hold") this.reveal(false);
  }

  /** Before lies left of the line, after right of it. */
  wipe(share) {
    const percent = Math.min(Math.max(100 * share, 0), 100);
    this.line.value = percent;
    this.over.element.style.setProperty("--sae-line", `${percent}%`);
  }

  /** Shows before, or after again. */
  reveal(before) {
    this.element.classList.toggle("sae-steering-held", before);
  }
}
