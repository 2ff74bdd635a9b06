// Recipes as presets of a panel: a menu of those in output/sae/recipes, and files that are dropped onto the panel.
import { el, short, showAt } from "./dom.js";
import { listRecipes, openRecipe, outputPicture } from "./server.js";

const LARGEST = 1_000_000; // bytes of a recipe
const NONE = "There is no recipe yet: Save Recipe writes them into output/sae/recipes.";

/** A button with the menu. `panel` has the `source` of its SAE, and methods `adopt` and `tell`. */
export function createPresets(panel) {
  const menu = el("div", {
    className: "sae-steering sae-steering-float sae-steering-presets", popover: "auto", role: "menu", tabIndex: -1,
    "aria-label": "Presets",
  });
  const button = el("button", {
    type: "button", className: "sae-steering-preset", textContent: "presets ▾", title: "Recipes in output/sae/recipes",
    "aria-haspopup": "menu", onclick: open,
  });
  menu.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") close();
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const items = [...menu.querySelectorAll("[role=menuitem]")];
    items.at((items.indexOf(document.activeElement) + by) % items.length)?.focus();
  });

  async function open() {
    let found;
    try {
      found = await listRecipes(panel.source);
    } catch (error) {
      panel.tell(error.message);
      return;
    }
    const { recipes, folder, warnings } = found;
    menu.replaceChildren(
      ...recipes.map((recipe) => item(recipe, folder, () => choose(recipe.name))),
      ...[recipes.length ? "" : NONE, ...warnings].filter(Boolean).map((text) => el("div", { className: "sae-steering-quiet", textContent: text })),
    );
    showAt(menu, button);
    (menu.querySelector("[role=menuitem]") ?? menu).focus();
  }

  function close() {
    menu.hidePopover();
    button.focus({ preventScroll: true });
  }

  async function choose(name) {
    close();
    await use(panel, { name }, name);
  }

  return el("div", { className: "sae-steering-menu" }, button, menu);
}

function item({ name, note, features, sae, fits, picture }, folder, onclick) {
  const whose = fits ? "" : `, of ${sae || "another SAE"}`;
  return el(
    "button",
    { type: "button", role: "menuitem", className: fits ? "" : "sae-steering-unfit", onclick },
    picture ? el("img", { src: outputPicture(folder, picture), alt: "", loading: "lazy" }) : undefined,
    el(
      "span",
      {},
      el("b", { textContent: name }),
      el("small", { textContent: `${features} ${features === 1 ? "feature" : "features"}${whose}` }),
      note ? el("small", { textContent: note }) : undefined,
    ),
  );
}

/** Fills the panel with a recipe of its SAE; for any other it tells in a sentence why not. */
async function use(panel, recipe, name) {
  if (!panel.source) {
    panel.tell("Connect an SAE, or run once: only then is it known whether the recipe is for it.");
    return;
  }
  try {
    const { mix, told } = await openRecipe(panel.source, recipe);
    await panel.adopt(mix, `“${name}” is in the panel. ${told}`);
  } catch (error) {
    panel.tell(error.message);
  }
}

/** Takes recipes that are dropped onto `element`; other files are core's, such as a picture with a workflow in it. */
export function acceptRecipes(element, panel) {
  const isRecipe = ({ dataTransfer }) => [...(dataTransfer?.items ?? [])].some(({ type }) => type === "application/json");
  const taken = (event) => {
    if (!isRecipe(event)) return false;
    event.preventDefault();
    event.stopPropagation();
    return true;
  };
  element.addEventListener("dragover", (event) => element.classList.toggle("sae-steering-drop", taken(event)));
  element.addEventListener("dragleave", () => element.classList.remove("sae-steering-drop"));
  element.addEventListener("drop", async (event) => {
    element.classList.remove("sae-steering-drop");
    if (!taken(event)) return;
    const { files } = event.dataTransfer;
    if (files.length !== 1) panel.tell(`${files.length} files came; drop one recipe.`);
    else if (files[0].size > LARGEST) panel.tell(`${files[0].name} has ${short(files[0].size / 1e6)} MB, but no recipe has more than 1 MB.`);
    else await use(panel, { recipe: await files[0].text() }, files[0].name.replace(/\.json$/i, ""));
  });
}
