// Elements without markup: text stays text, whatever a label file says. What lies above the canvas, unscaled, and DOM
// widgets that stay true to their node, whatever the front-end does with it.

/** An element with properties (on… are listeners, aria-… and data-… attributes) and children, which may be texts. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "role" || key === "list") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A number as people read it: three digits, no exponent where it can be helped. */
export function short(value) {
  if (!Number.isFinite(value)) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 100000)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

/** Keeps pointers and wheels of a panel away from the canvas behind it, and the keys that would delete its node. */
export function shield(element) {
  element.addEventListener("keydown", (event) => {
    if (event.key === "Delete" || event.key === "Backspace") event.stopPropagation();
  });
  for (const kind of ["pointerdown", "mousedown", "dblclick"]) {
    element.addEventListener(kind, (event) => event.stopPropagation());
  }
  element.addEventListener("wheel", (event) => {
    if (element.scrollHeight > element.clientHeight && !event.ctrlKey) event.stopPropagation();
  });
  return element;
}

/** Shows a popover below `anchor`, or above it where there is more room, inside the window. */
export function showAt(popover, anchor, gap = 2) {
  popover.showPopover();
  const { top, bottom, left } = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popover;
  const below = bottom + gap + height <= window.innerHeight || top < window.innerHeight - bottom;
  const wanted = below ? bottom + gap : top - gap - height;
  popover.style.top = `${Math.max(0, Math.min(wanted, window.innerHeight - height))}px`;
  popover.style.left = `${Math.max(0, Math.min(left, window.innerWidth - width))}px`;
}

let made = 0;

/**
 * Adds `element` to a node as a widget that is at least `height()` units high; what does not fit in it scrolls.
 *
 * Each widget has a type of its own. Nodes 2.0 keeps on the screen what it mounted for a node's id, a widget's name and
 * its type: of one type, a node that undo builds anew would go on showing the element of the node before it.
 */
export function addElement(node, name, type, element, height, options = {}) {
  const widget = node.addDOMWidget(name, `${type}.${++made}`, element, {
    getMinHeight: height,
    margin: 6,
    hideOnZoom: false, // the classic canvas would show a grey box when it is small, as whole workflows on a laptop are
    hideInPanel: true, // the properties panel draws core's types only, and would list an empty line
    ...options,
  });
  // a properties panel that lists it all the same sets its width, which the canvas would then keep for good
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {} });
  return widget;
}

/** Makes the node large enough for its widgets; whatever the user made larger stays. */
export function makeRoom(node, element, height, width = 0) {
  element.style.setProperty("--sae-height", `${height}px`); // for Nodes 2.0, which asks no widget for its height
  if (!node.widgets?.length || !node.computeSize) return;
  const least = Math.max(node.computeSize()[1], heightOnScreen(element));
  if (node.size[1] < least || node.size[0] < width) {
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], least)]);
  }
  node.graph?.setDirtyCanvas?.(true, true);
}

/**
 * Of the node that Nodes 2.0 shows around `element`, without its title: what core will measure and save a moment later.
 * Taken at once it belongs to the step of undo that changed it. 0 elsewhere.
 */
function heightOnScreen(element) {
  const box = element.closest("[data-node-id]");
  return box ? parseFloat(getComputedStyle(box).height) - LiteGraph.NODE_TITLE_HEIGHT || 0 : 0;
}
