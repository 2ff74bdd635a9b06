// What a slider's strength does, told for the method that the panel's features are steered with.
import { executionNodes, originOf } from "./graph.js";
import { short } from "./dom.js";

const MEANINGS = {
  add: "0 changes nothing, above 0 brings the feature in, below 0 pushes against it.",
  set: "the feature is held at this activation everywhere; 0 silences it.",
  scale: "1 leaves the feature as it is, 0 takes it out, 2 doubles it, −1 turns it round.",
  boost_if_active: "as add, but only where the feature fires already.",
  project_out: "1 takes the feature's direction out, 0 leaves it, 2 mirrors it, −1 doubles it.",
  surgery: "as add, but 0 too loses what the SAE cannot express.",
  swap: "1 puts the feature in as strongly as those fire that it replaces, 0 leaves it out.",
};
const FURTHEST = 20; // nodes in a chain of feature lists

/** A sentence for the node whose `features` come from this panel, or nothing where no such node is wired. */
export function meaningFor(node) {
  const steerer = [...executionNodes().values()].find((other) => widgetValue(other, "method") && feeds(node, other));
  if (!steerer) return "";
  const chosen = widgetValue(steerer, "method");
  const method = chosen !== "auto" ? chosen : originOf(steerer, "replaces") ? "swap" : "add"; // as edits.py has it
  const strength = widgetValue(steerer, "strength");
  const told = MEANINGS[method] ? [`${method}: ${MEANINGS[method]}`] : [];
  if (Number.isFinite(strength) && strength !== 1) told.push(`“${steerer.title}” multiplies all by ${short(strength)}.`);
  return told.join(" ");
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
