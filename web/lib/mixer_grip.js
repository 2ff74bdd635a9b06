// The handle of a row: drag it, press the arrow keys, or Delete.
import { el } from "./dom.js";

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
