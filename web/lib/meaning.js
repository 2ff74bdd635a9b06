// What a slider's strength does, told for the method that the panel's features are steered with.
import { short } from "./dom.js";
import { executionNodes, originOf } from "./graph.js";

const FURTHEST = 20; // nodes in a chain of feature lists

/** A sentence for the node whose `features` come from this panel, or nothing where no such node is wired. */
export function meaningFor(node) {
  const steerer = [...executionNodes().values()].find((other) => widgetValue(other, "method") && feeds(node, other));
  if (!steerer) return "";
  const { strength_means: meanings = {}, auto_means: auto = {} } = methodInput(steerer);
  const chosen = widgetValue(steerer, "method");
  const method = chosen !== "auto" ? chosen : originOf(steerer, "replaces") ? auto.with_replaces : auto.alone;
  const strength = widgetValue(steerer, "strength");
  const told = meanings[method] ? [`${method}: ${meanings[method]}`] : [];
  if (Number.isFinite(strength) && strength !== 1) told.push(`“${steerer.title}” multiplies all by ${short(strength)}.`);
  return told.join(" ");
}

/** What the node's definition says of its methods. */
function methodInput(node) {
  return node.constructor.nodeData?.input?.required?.method?.[1] ?? {};
}

function widgetValue(node, name) {
  return node.widgets?.find((widget) => widget.name === name)?.value;
}

function feeds(node, other) {
  let at = other;
  for (let step = 0; at && step < FURTHEST; step++) {
    at = originOf(at, "features")?.node;
    if (at === node) return true;
  }
  return false;
}
