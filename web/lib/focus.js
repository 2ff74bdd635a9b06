// Undo belongs to the graph, but core leaves Ctrl+Z to whichever input has the focus, and sliders have no history.
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

function commandOf({ key, ctrlKey, metaKey, shiftKey, altKey }) {
  if (!(ctrlKey || metaKey) || altKey) return undefined;
  const letter = key.toLowerCase();
  if (letter === "z") return shiftKey ? "Comfy.Redo" : "Comfy.Undo";
  return letter === "y" && !shiftKey ? "Comfy.Redo" : undefined;
}
