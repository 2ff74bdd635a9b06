// The line above the rows: all on or off, one strength for all, and back to the beginning.
import { el, short } from "./dom.js";
import { leave, typed } from "./focus.js";

const MOST = 2; // where the slider of all rows ends; the number field takes more

export function createTools(mixer) {
  const all = el("input", {
    type: "checkbox", "aria-label": "Use all features", title: "All on or off",
    onchange: () => mixer.setAll({ on: all.checked }),
  });
  const slider = el("input", {
    className: "sae-steering-slider", type: "range", min: 0, max: MOST, step: 0.02, "aria-label": "Strength of all",
    title: "Multiplies the strength of every row",
    oninput: () => {
      number.value = short(slider.valueAsNumber);
      mixer.slideAll(slider.valueAsNumber);
    },
    onchange: () => mixer.strengthen(slider.valueAsNumber),
  });
  const number = el("input", {
    className: "sae-steering-number", type: "number", step: "any", "aria-label": "Strength of all",
  });
  const { isFinite } = Number;
  typed(number, {
    shown: () => short(mixer.state.strength),
    follow: () => isFinite(number.valueAsNumber) && mixer.slideAll(number.valueAsNumber),
    take: () => mixer.strengthen(isFinite(number.valueAsNumber) ? number.valueAsNumber : mixer.state.strength),
    back: (strength) => mixer.strengthen(strength),
    value: () => mixer.state.strength,
  });
  const again = el("button", {
    className: "sae-steering-reset", type: "button", textContent: "reset",
    title: "All on, at the strengths they begin with", onclick: () => mixer.reset(),
  });
  const element = el(
    "div",
    { className: "sae-steering-tools", role: "group", "aria-label": "All features" },
    el("label", {}, all, "all"),
    slider,
    number,
    again,
  );
  leave(slider);
  leave(all);
  return {
    element,
    draw({ rows, strength }) {
      const on = rows.filter((row) => row.on !== false).length;
      all.checked = on > 0 && on === rows.length;
      all.indeterminate = on > 0 && on < rows.length;
      slider.value = strength;
      number.saeSteeringShow();
      element.hidden = !rows.length;
    },
  };
}
