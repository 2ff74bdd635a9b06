// Undo belongs to the graph, but core leaves Ctrl+Z to whichever input has the focus, and sliders have no history.
// Fields that are typed into, with Escape as everywhere.
import { app } from "../../../scripts/app.js";

/** Lets go of a slider or box when the mouse does, and brings undo and redo to the graph while keys hold it. */
export function leave(input) {
  const letGo = () => {
    if (!input.matches(":focus-visible")) input.blur();
  };
  input.addEventListener("change", letGo);
  input.addEventListener("click", letGo);
  input.addEventListener("keydown", (event) => {
    const command = commandOf(event);
    if (!command) return;
    event.preventDefault();
    app.extensionManager.command.execute(command);
  });
}

/**
 * A field whose text is taken over by `take` when it is left, and by `follow`, if given, with each key. Escape drops what
 * was typed: the field shows `shown()` again, and what `follow` took goes `back` to the `value` it had before.
 */
export function typed(field, { shown, take, follow, back, value }) {
  let before; // {value} while somebody types
  field.saeSteeringShow = () => {
    if (!before && field.value !== shown()) field.value = shown();
  };
  field.addEventListener("input", () => {
    before ??= { value: value?.() };
    follow?.();
  });
  field.addEventListener("change", () => {
    before = undefined;
    take();
  });
  field.addEventListener("blur", () => {
    if (!before) return; // `take` shows what it made of the text
    before = undefined;
    field.saeSteeringShow();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation(); // core's Escape leaves a subgraph
    const was = before;
    before = undefined;
    if (was && back && was.value !== value()) back(was.value);
    field.value = shown();
    field.select();
  });
}

function commandOf({ key, ctrlKey, metaKey, shiftKey, altKey }) {
  if (!(ctrlKey || metaKey) || altKey) return undefined;
  const letter = key.toLowerCase();
  if (letter === "z") return shiftKey ? "Comfy.Redo" : "Comfy.Undo";
  return letter === "y" && !shiftKey ? "Comfy.Redo" : undefined;
}
