// DOM widgets that stay true to their node, whatever the front-end does with it.

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
