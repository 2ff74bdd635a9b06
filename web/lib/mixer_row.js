// One row of the panel: handle, switch, number of the feature, name, slider, strength, unit, solo, remove.
import { explain } from "./card.js";
import { el, short } from "./dom.js";
import { leave } from "./focus.js";
import { plays, rangeOf, UNITS, unitsOf } from "./mix.js";

export function createRow(mixer, row, at) {
  const called = row.name ? `feature ${row.feature}, ${row.name}` : `feature ${row.feature}`;
  const item = el("li", { className: "sae-steering-row", "data-at": at });
  if (!plays(row, mixer.state.rows)) item.classList.add("sae-steering-off");
  if (mixer.isForeign(row)) {
    item.classList.add("sae-steering-foreign");
    item.title = `Its numbers were measured on ${row.owner.name}; remove it, or connect that SAE.`;
  }
  const number = el("span", { className: "sae-steering-index", textContent: row.feature });
  const name = el("input", {
    className: "sae-steering-name", type: "text", value: row.name ?? "", placeholder: "no name", maxLength: 200,
    "aria-label": `Name of feature ${row.feature}`,
    onchange: (event) => mixer.rename(at, event.target.value.trim()),
  });
  for (const part of [number, name]) explain(part, () => mixer.cardOf(row));
  item.append(
    handle(mixer, item, at, called),
    switchOf(mixer, row, at, called),
    number,
    name,
    ...strengthOf(mixer, row, at, called),
    unitChoice(mixer, row, at, called),
    el("button", {
      className: "sae-steering-solo", type: "button", textContent: "solo", title: "Only this one, and others on solo",
      "aria-label": `Solo ${called}`, "aria-pressed": String(row.solo === true), onclick: () => mixer.solo(at),
    }),
    el("button", {
      className: "sae-steering-remove", type: "button", textContent: "✕", title: "Remove", "aria-label": `Remove ${called}`,
      onclick: () => mixer.remove(at),
    }),
  );
  return item;
}

function switchOf(mixer, row, at, called) {
  const box = el("input", {
    type: "checkbox", checked: row.on !== false, "aria-label": `Use ${called}`,
    onchange: () => mixer.set(at, { on: box.checked }),
  });
  leave(box);
  return box;
}

/** The slider and its number, which goes beyond the slider's ends. */
function strengthOf(mixer, row, at, called) {
  const [min, max, step] = rangeOf(row);
  const slider = el("input", {
    className: "sae-steering-slider", type: "range", min, max, step, "aria-label": `Strength of ${called}`,
    oninput: () => {
      number.value = short(slider.valueAsNumber);
      mixer.slide(at, slider.valueAsNumber);
    },
    onchange: () => mixer.set(at, { strength: slider.valueAsNumber }),
  });
  slider.value = row.strength ?? 1;
  leave(slider);
  const number = el("input", {
    className: "sae-steering-number", type: "number", step: "any", value: short(row.strength ?? 1),
    "aria-label": `Strength of ${called}`,
    onchange: () => Number.isFinite(number.valueAsNumber)
      ? mixer.set(at, { strength: number.valueAsNumber })
      : mixer.render(),
  });
  return [slider, number];
}

function unitChoice(mixer, row, at, called) {
  const chosen = row.unit ?? unitsOf(row)[0];
  const choice = el(
    "select",
    {
      className: "sae-steering-unit", "aria-label": `Unit of ${called}`, title: "What strength 1 means",
      onchange: () => mixer.set(at, { unit: choice.value }),
    },
    ...unitsOf(row).map((unit) => el("option", { value: unit, textContent: UNITS[unit] ?? unit })),
  );
  choice.value = chosen;
  return choice;
}

/** Moves the row: drag it, or press the arrow keys. */
function handle(mixer, item, at, called) {
  const grip = el("button", {
    className: "sae-steering-handle", type: "button", textContent: "⠿", title: "Drag, or press ↑ and ↓",
    "aria-label": `Move ${called}`,
    onkeydown: (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      mixer.move(at, at + by);
    },
  });
  grip.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    grip.setPointerCapture(event.pointerId);
    item.classList.add("sae-steering-dragged");
    const place = (y) => {
      const rows = [...item.parentElement.children];
      const before = rows.filter((other) => other !== item && middle(other) < y).length;
      return before;
    };
    const over = (moved) => {
      for (const other of item.parentElement.children) other.classList.remove("sae-steering-target");
      const target = item.parentElement.children[place(moved.clientY)];
      if (target !== item) target?.classList.add("sae-steering-target");
    };
    const drop = (dropped) => {
      grip.removeEventListener("pointermove", over);
      grip.removeEventListener("pointerup", drop);
      grip.removeEventListener("pointercancel", drop);
      item.classList.remove("sae-steering-dragged");
      if (dropped.type === "pointerup") mixer.move(at, place(dropped.clientY));
    };
    grip.addEventListener("pointermove", over);
    grip.addEventListener("pointerup", drop);
    grip.addEventListener("pointercancel", drop);
  });
  return grip;
}

function middle(element) {
  const { top, height } = element.getBoundingClientRect();
  return top + height / 2;
}
