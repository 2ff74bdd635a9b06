// The field that adds features: a number, or words of a name with what is found for them below.
import { el, short, showAt } from "./dom.js";
import { picture } from "./pictures.js";

const PAUSE = 200; // milliseconds after the last key
const MOST = 20; // found features that are listed

/**
 * `find` asks the server for {q} or {index}, `pictures` for those of features; `add` takes a feature; `count` is how many
 * features there are.
 */
export function createAdder({ find, pictures, add, count }) {
  let timer;
  let found = [];
  let marked = -1;
  const id = `sae-steering-found-${Math.random().toString(36).slice(2)}`;
  const options = el("ul", { className: "sae-steering sae-steering-float sae-steering-found", role: "listbox", id, popover: "manual" });
  const field = el("input", {
    className: "sae-steering-add", type: "text", placeholder: "add a feature: number or name", role: "combobox",
    "aria-label": "Add a feature by number or name", "aria-expanded": "false", "aria-controls": id, autocomplete: "off",
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(look, PAUSE);
    },
    onkeydown: press,
    onblur: () => setTimeout(close, 150), // after a click on what was found
  });
  const hint = el("span", { className: "sae-steering-hint" });

  function close() {
    options.hidePopover();
    field.setAttribute("aria-expanded", "false");
  }

  function take(feature) {
    clearTimeout(timer);
    field.value = "";
    hint.textContent = "";
    close();
    add(feature);
  }

  function mark(to) {
    marked = found.length ? (to + found.length) % found.length : -1;
    [...options.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === marked)));
    options.children[marked]?.scrollIntoView({ block: "nearest" });
  }

  async function look() {
    const words = field.value.trim();
    hint.textContent = "";
    if (!words) return close();
    const number = /^\d{1,9}$/.test(words);
    try {
      found = await find(number ? { index: words } : { q: words });
    } catch (error) {
      found = number ? [{ feature: Number(words) }] : []; // a number can be added without knowing the SAE
      if (!number) hint.textContent = error.message;
    }
    if (number && !found.length) hint.textContent = count() ? `This SAE has the features 0 to ${count() - 1}.` : "";
    else if (!found.length && !hint.textContent) hint.textContent = "No feature has that name.";
    show();
    illustrate(found);
    return undefined;
  }

  /** Puts the pictures on which the listed features fire beside their names. */
  async function illustrate(listed) {
    const known = await pictures(listed.map(({ feature }) => feature)).catch(() => new Map()); // the words are enough
    if (listed !== found) return;
    listed.forEach(({ feature }, at) => {
      const { pictures: shown = [], gallery } = known.get(feature) ?? {};
      options.children[at].querySelector(".sae-steering-pictures").replaceChildren(
        ...shown.map((one) => picture(one, gallery, feature)),
      );
    });
  }

  function show() {
    found = found.slice(0, MOST);
    options.replaceChildren(
      ...found.map((feature) =>
        el(
          "li",
          { role: "option", title: feature.note ?? "", onpointerdown: (event) => event.preventDefault(), onclick: () => take(feature) },
          el("b", { textContent: feature.feature }),
          el("span", { className: "sae-steering-called", textContent: feature.name ?? "no name" }),
          el("span", { className: "sae-steering-pictures" }),
          el("small", { textContent: Number.isFinite(feature.score) ? `${short(100 * feature.score)} % sure` : "", title: "How much of its firing the name explains" }),
        ),
      ),
    );
    if (!found.length) return close();
    showAt(options, field);
    field.setAttribute("aria-expanded", "true");
    mark(0);
  }

  async function press(event) {
    event.stopPropagation();
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      mark(marked + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Escape") {
      close();
    } else if (event.key === "Enter") {
      event.preventDefault();
      clearTimeout(timer);
      if (!options.matches(":popover-open")) await look();
      if (found[marked]) take(found[marked]);
    }
  }

  return el("div", { className: "sae-steering-adder" }, field, hint, options);
}
