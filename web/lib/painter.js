// A brush on a picture. Its value is a JSON text, see sae/drawing/strokes.py, which has the last word.
import { addElement, el, makeRoom, shield } from "./dom.js";
import { leave } from "./focus.js";
import { createFrame, shareOf } from "./frame.js";
import { asOneChange } from "./graph.js";

const TYPE = "sae_steering.strokes";
const EMPTY = '{"strokes": []}';
const HEIGHT = 320;
const WIDTH = 340;
const INK = "#19c8ff"; // seen on most pictures
const PIXELS = 512; // of the drawing's longer side on the screen
const NEAREST = 0.004; // of the picture's width, between two points of a stroke

/** The widget of an input of type SAE_STEERING_STROKES. */
export function createPainter(node, name, preset = EMPTY) {
  const panel = new Painter(node, preset);
  const widget = addElement(node, name, TYPE, panel.element, () => HEIGHT, {
    getValue: () => panel.text,
    setValue: (value) => panel.load(value),
  });
  widget.saeSteeringPainter = panel;
  panel.changed = () => widget.callback?.(widget.value);
  makeRoom(node, panel.element, HEIGHT, WIDTH);
  return widget;
}

/** The panel of a node, where it has one. */
export function painterOf(node) {
  return node.widgets?.find((widget) => widget.saeSteeringPainter)?.saeSteeringPainter;
}

class Painter {
  constructor(node, preset) {
    this.node = node;
    this.changed = () => {};
    this.erases = false;
    this.size = el("input", { type: "range", min: 0.01, max: 0.5, step: 0.01, value: 0.15, "aria-label": "Size of the brush", title: "Size of the brush" });
    this.rubber = this.button("erase", "Takes away instead", () => this.erase(!this.erases));
    this.rubber.setAttribute("aria-pressed", "false");
    const back = this.button("undo", "Takes the last stroke back", () => this.change(this.strokes.slice(0, -1)));
    const clear = this.button("clear", "Takes all away", () => this.change([]));
    this.frame = createFrame("sae-steering-canvas");
    this.canvas = el("canvas", { width: PIXELS, height: PIXELS, role: "img" });
    this.frame.element.append(this.canvas);
    this.message = el("div", { className: "sae-steering-message", role: "status" });
    this.element = shield(el(
      "div", { className: "sae-steering sae-steering-painter" },
      el("div", { className: "sae-steering-head" }, el("label", {}, "brush", this.size), this.rubber, back, clear),
      el("div", { className: "sae-steering-stage" }, this.frame.element), this.message,
    ));
    leave(this.size);
    this.canvas.addEventListener("pointerdown", (event) => event.button === 0 && this.begin(event));
    this.load(preset);
  }

  button(textContent, title, onclick) {
    return el("button", { type: "button", textContent, title, onclick });
  }

  erase(erases) {
    this.erases = erases;
    this.rubber.setAttribute("aria-pressed", String(erases));
  }

  get text() {
    return this.broken ?? JSON.stringify({ strokes: this.strokes });
  }

  /** Takes a value over, as it was saved, undone or pasted; one that is none is kept until something is painted. */
  load(value) {
    this.strokes = [];
    this.broken = undefined;
    try {
      const { strokes } = JSON.parse(value || EMPTY);
      if (!strokes.every(({ points, size }) => Array.isArray(points) && Number.isFinite(size))) throw new TypeError();
      this.strokes = strokes;
    } catch {
      this.broken = String(value);
    }
    this.draw();
  }

  /** The picture to paint on, as a run showed it. */
  show(file) {
    const [image] = this.frame.load(file ? [file] : []);
    this.pictured = Boolean(image);
    image?.addEventListener("load", () => {
      const { naturalWidth: width, naturalHeight: height } = image;
      const scale = PIXELS / Math.max(width, height);
      [this.canvas.width, this.canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
      this.draw();
    });
    this.draw();
  }

  /** One step of undo. */
  change(strokes) {
    asOneChange(() => {
      this.broken = undefined;
      this.strokes = strokes;
      this.draw();
      this.changed();
    });
  }

  begin(event) {
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    const stroke = { size: this.size.valueAsNumber, points: this.pointOf(event) };
    if (this.erases) stroke.erase = true;
    const move = (moved) => {
      const [x, y] = this.pointOf(moved);
      const [lastX, lastY] = stroke.points.slice(-2);
      if (Math.hypot(x - lastX, y - lastY) < NEAREST) return;
      stroke.points.push(x, y);
      this.draw([...this.strokes, stroke]);
    };
    const end = () => {
      for (const kind of ["pointerup", "pointercancel"]) this.canvas.removeEventListener(kind, end);
      this.canvas.removeEventListener("pointermove", move);
      this.change([...this.strokes, stroke]);
    };
    for (const kind of ["pointerup", "pointercancel"]) this.canvas.addEventListener(kind, end);
    this.canvas.addEventListener("pointermove", move);
    this.draw([...this.strokes, stroke]);
  }

  pointOf(event) {
    return shareOf(event, this.canvas).map((share) => Number(Math.min(Math.max(share, -0.5), 1.5).toFixed(3)));
  }

  draw(strokes = this.strokes) {
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    Object.assign(context, { lineCap: "round", lineJoin: "round", strokeStyle: INK, fillStyle: INK });
    for (const { points, size, erase } of strokes) {
      context.globalCompositeOperation = erase ? "destination-out" : "source-over";
      context.lineWidth = size * width;
      context.beginPath();
      for (let at = 0; at < points.length; at += 2) context.lineTo(points[at] * width, points[at + 1] * height);
      if (points.length === 2) context.lineTo(points[0] * width + 0.01, points[1] * height);
      context.stroke();
    }
    this.canvas.setAttribute("aria-label", strokes.length ? `Painted with ${strokes.length} strokes` : "Nothing is painted");
    this.message.textContent = this.told();
  }

  told() {
    if (this.broken !== undefined) return "This value is no list of strokes; painting replaces it.";
    if (!this.pictured) return "Run once to see the picture, paint over a part of it, and run again.";
    return this.strokes.length ? "" : "Paint where to steer, then run again.";
  }
}
