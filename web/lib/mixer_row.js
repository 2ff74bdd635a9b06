// One row of the panel: handle, switch, number of the feature, name, slider, strength, unit, solo, remove.
import { explain } from "./card.js";
import { el, short } from "./dom.js";
import { leave, typed } from "./focus.js";
import { plays, rangeOf, UNITS, unitsOf } from "./mix.js";

/**
 * The row of a feature. Its elements live as long as the row: what is pressed or typed in stays where it is while other
 * rows change. `draw` shows a row's value at its place in the panel.
 */
export class Row {
  constructor(mixer, feature) {
    this.mixer = mixer;
    this.feature = feature;
    this.at = 0;
    this.row = { feature };
    this.index = el("span", { className: "sae-steering-index", textContent: feature });
    this.handle = grip(this);
    this.box = el("input", { type: "checkbox", onchange: () => mixer.set(this.at, { on: this.box.checked }) });
    this.name = el("input", {
      className: "sae-steering-name", type: "text", placeholder: "no name", maxLength: 200,
      "aria-label": `Name of feature ${feature}`,
    });
    this.slider = el("input", {
      className: "sae-steering-slider", type: "range",
      oninput: () => {
        this.number.value = short(this.slider.valueAsNumber);
        mixer.slide(this.at, this.slider.valueAsNumber);
      },
      onchange: () => mixer.set(this.at, { strength: this.slider.valueAsNumber }),
    });
    this.number = el("input", { className: "sae-steering-number", type: "number", step: "any" });
    this.unit = el("select", {
      className: "sae-steering-unit", onchange: () => mixer.set(this.at, { unit: this.unit.value }),
    });
    this.solo = el("button", {
      className: "sae-steering-solo", type: "button", textContent: "solo", title: "Only this one, and others on solo",
      onclick: () => mixer.solo(this.at),
    });
    this.away = el("button", {
      className: "sae-steering-remove", type: "button", textContent: "✕", title: "Remove", onclick: () => mixer.remove(this.at),
    });
    this.element = el(
      "li", { className: "sae-steering-row" },
      this.handle, this.box, this.index, this.name, this.slider, this.number, this.unit, this.solo, this.away,
    );
    this.listen();
  }

  listen() {
    const { mixer } = this;
    for (const input of [this.slider, this.box]) leave(input);
    for (const part of [this.index, this.name]) explain(part, () => mixer.cardOf(this.row));
    typed(this.name, { shown: () => this.row.name ?? "", take: () => mixer.rename(this.at, this.name.value.trim()) });
    typed(this.number, {
      shown: () => short(this.row.strength ?? 1),
      follow: () => Number.isFinite(this.number.valueAsNumber) && mixer.slide(this.at, this.number.valueAsNumber),
      take: () => Number.isFinite(this.number.valueAsNumber)
        ? mixer.set(this.at, { strength: this.number.valueAsNumber })
        : mixer.render(),
      back: (strength) => mixer.set(this.at, { strength }),
      value: () => this.row.strength ?? 1,
    });
  }

  /** Shows `row` as the one at place `at`; what somebody types at the moment stays. */
  draw(row, at) {
    [this.row, this.at] = [row, at];
    const { mixer, element } = this;
    const foreign = mixer.isForeign(row);
    element.setAttribute("data-at", at);
    element.classList.toggle("sae-steering-off", !plays(row, mixer.state.rows));
    element.classList.toggle("sae-steering-foreign", foreign);
    element.title = foreign ? `Its numbers were measured on ${row.owner.name}; remove it, or connect that SAE.` : "";
    this.label(row.name ? `feature ${row.feature}, ${row.name}` : `feature ${row.feature}`);
    this.box.checked = row.on !== false;
    this.solo.setAttribute("aria-pressed", String(row.solo === true));
    const [min, max, step] = rangeOf(row);
    Object.assign(this.slider, { min, max, step });
    this.slider.value = row.strength ?? 1;
    for (const input of [this.name, this.number]) input.saeSteeringShow();
    this.offer(row);
  }

  /** The units of the row; nothing is touched while they are the same, since their list may be open. */
  offer(row) {
    const { mixer, unit } = this;
    const units = unitsOf(row);
    if (units.join() !== [...unit.options].map(({ value }) => value).join()) {
      unit.replaceChildren(...units.map((value) => el("option", { value, textContent: UNITS[value] ?? value })));
    }
    const chosen = row.unit ?? units[0];
    if (unit.value !== chosen) unit.value = chosen;
    unit.title = mixer.unitsTold ?? "What strength 1 means";
  }

  label(called) {
    const labels = [
      [this.handle, `Move ${called}`], [this.box, `Use ${called}`], [this.slider, `Strength of ${called}`],
      [this.number, `Strength of ${called}`], [this.unit, `Unit of ${called}`], [this.solo, `Solo ${called}`],
      [this.away, `Remove ${called}`],
    ];
    for (const [part, label] of labels) part.setAttribute("aria-label", label);
  }
}

export function grip(row) {
  const { mixer } = row;
  const handle = el("button", {
    className: "sae-steering-handle", type: "button", textContent: "⠿", title: "Drag, or press ↑ and ↓; Delete removes",
    onkeydown: (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      const gone = ["Delete", "Backspace"].includes(event.key);
      if (!by && !gone) return;
      event.preventDefault();
      event.stopPropagation();
      if (gone) mixer.remove(row.at);
      else mixer.move(row.at, row.at + by);
    },
  });
  handle.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    handle.setPointerCapture(event.pointerId);
    drag(row, handle);
  });
  return handle;
}

function drag(row, handle) {
  const item = row.element;
  const others = () => [...item.parentElement.children].filter((other) => other !== item);
  const placeOf = (y) => others().filter((other) => middle(other) < y).length;
  item.classList.add("sae-steering-dragged");
  const over = (moved) => {
    const target = item.parentElement.children[placeOf(moved.clientY)];
    for (const other of item.parentElement.children) {
      other.classList.toggle("sae-steering-target", other === target && other !== item);
    }
  };
  const drop = (dropped) => {
    handle.removeEventListener("pointermove", over);
    handle.removeEventListener("pointerup", drop);
    handle.removeEventListener("pointercancel", drop);
    for (const one of item.parentElement.children) one.classList.remove("sae-steering-dragged", "sae-steering-target");
    if (dropped.type === "pointerup") row.mixer.move(row.at, placeOf(dropped.clientY));
  };
  handle.addEventListener("pointermove", over);
  handle.addEventListener("pointerup", drop);
  handle.addEventListener("pointercancel", drop);
}

function middle(element) {
  const { top, height } = element.getBoundingClientRect();
  return top + height / 2;
}
