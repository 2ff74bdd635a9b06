// One card for the page that tells of what the pointer or the keyboard is at.
import { el, showAt } from "./dom.js";

const PAUSE = 250; // milliseconds before it shows
const GAP = 6;

let card; // the element, made when it is first needed
let at; // what it tells of
let watch; // the timer that looks whether that is still there

/** Shows `content()`, a promise of an element, while the pointer is over `target` or the keyboard in it. */
export function explain(target, content) {
  let timer;
  const show = () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const shown = await content();
      if (shown && isMeant(target)) open(target, shown);
    }, PAUSE);
  };
  const hide = () => {
    clearTimeout(timer);
    if (at === target && !isMeant(target)) close();
  };
  target.addEventListener("pointerenter", show);
  target.addEventListener("focus", show);
  target.addEventListener("pointerleave", hide);
  target.addEventListener("blur", hide);
  target.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && at === target) close();
  });
}

function isMeant(target) {
  return target.isConnected && (target.matches(":hover") || document.activeElement === target);
}

/** Whether it is on the screen: a workflow may be changed by the keyboard while the pointer rests. */
function isShown(target) {
  return target.isConnected && target.checkVisibility();
}

function open(target, content) {
  card ??= make();
  at = target;
  card.replaceChildren(content);
  showAt(card, target, GAP);
  target.setAttribute("aria-describedby", card.id);
  clearInterval(watch);
  watch = setInterval(() => (at && isShown(at) ? undefined : close()), PAUSE);
}

function close() {
  clearInterval(watch);
  at?.removeAttribute("aria-describedby");
  at = undefined;
  card.hidePopover();
}

/** What it tells of may move away or be drawn anew under a pointer that rests. */
function make() {
  const made = el("div", { className: "sae-steering sae-steering-float sae-steering-card", id: "sae-steering-card", role: "tooltip", popover: "manual" });
  const check = () => {
    if (at && !isMeant(at)) close();
  };
  document.addEventListener("pointermove", check, true);
  document.addEventListener("wheel", () => at && close(), { capture: true, passive: true });
  document.body.append(made);
  return made;
}
