// What nodes found, shown inside them: after a run, after a reload of the page, and when the graph is drawn anew.
import { el, shield } from "./dom.js";
import { executionNodes, rootGraph } from "./graph.js";
import { panelOf } from "./mixer.js";
import { drawReport } from "./report.js";
import { history, reports } from "./server.js";
import { drawTable } from "./table.js";

const NAME = "sae_steering_result";
const TYPE = "sae_steering.result";
const STEERERS = new Set(["FluxActivationSteer", "LoadRecipe"]);
const VIEWERS = new Set([
  ...STEERERS,
  ...["TopActivatingFeatures", "TopEmbedFeatures", "InspectSAE", "ClipEmbedSteer", "BlendEmbedFeatures"],
  ...["CalibrateStrength", "LabelFeatures", "LabelEmbedFeatures", "SaveRecipe", "FeatureMixer", "ExportSAE"],
]);
const EARLIER = 24; // prompts that are looked through after a reload

const results = new Map(); // by graph and execution id: lives as long as the page

export function isViewer(node) {
  return VIEWERS.has(node.comfyClass);
}

/** A node's output came: shows it, if the node is ours. */
export function remember(id, output) {
  const node = executionNodes().get(String(id));
  if (!node || !isViewer(node) || !output) return;
  results.set(keyOf(String(id)), output);
  show(node, output);
}

/** After the graph was loaded: what this page has seen, else what the server's history still knows. */
export async function restore() {
  const missing = new Map();
  for (const [id, node] of executionNodes()) {
    if (!isViewer(node)) continue;
    const known = results.get(keyOf(id));
    if (known) show(node, known);
    else missing.set(id, node);
  }
  if (!missing.size) return;
  try {
    await restoreFromHistory(missing);
  } catch {
    // a server without history, or none at all: the nodes show their results when they run again
  }
}

async function restoreFromHistory(missing) {
  const graph = rootGraph()?.id;
  const prompts = (await history(EARLIER)).filter((prompt) => prompt.workflow === graph);
  for (const prompt of prompts) {
    const mine = [...missing].filter(([id, node]) => prompt.nodes[id]?.class_type === node.comfyClass);
    const steered = mine.some(([, node]) => STEERERS.has(node.comfyClass)) ? await reports(prompt.id) : {};
    for (const [id, node] of mine) {
      const report = steered[id];
      const output = report ? { sae_steering: [report] } : prompt.outputs[id];
      if (!output || results.has(keyOf(id))) continue;
      results.set(keyOf(id), output);
      show(node, output);
      missing.delete(id);
    }
    if (!missing.size) return;
  }
}

function keyOf(id) {
  return `${rootGraph()?.id}/${id}`;
}

function show(node, output) {
  const payload = output.sae_steering?.[0];
  if (payload?.kind === "sae") {
    panelOf(node)?.know(payload);
    return;
  }
  const content = draw(node, payload, output.text);
  if (!content) return;
  const viewer = viewerOf(node);
  viewer.element.replaceChildren(content);
  viewer.element.setAttribute("data-kind", payload?.kind ?? "text");
  watch(node, viewer, content);
}

function draw(node, payload, text) {
  if (payload?.kind === "table") return drawTable(node, payload);
  if (payload?.kind === "report") return drawReport(payload);
  const lines = (Array.isArray(text) ? text : [text]).filter((line) => typeof line === "string");
  return lines.length ? el("pre", { className: "sae-steering-text", tabIndex: 0, textContent: lines.join("\n") }) : undefined;
}

/** The widget that shows results; it has no value, so it is left out of saved workflows and prompts. */
function viewerOf(node) {
  const known = node.widgets?.find((widget) => widget.name === NAME);
  if (known) return known;
  const element = shield(el("div", { className: "sae-steering sae-steering-result" }));
  const widget = node.addDOMWidget(NAME, TYPE, element, {
    serialize: false,
    getMinHeight: () => widget.saeSteeringHeight ?? 60,
    margin: 6,
  });
  widget.serialize = false;
  const removed = widget.onRemove;
  widget.onRemove = function (...args) {
    widget.saeSteeringObserver?.disconnect();
    return removed?.apply(this, args);
  };
  return widget;
}

/** Gives the node room for the result; one that is not on the screen, as in a closed subgraph, has no height yet. */
function watch(node, viewer, content) {
  viewer.saeSteeringObserver?.disconnect();
  viewer.saeSteeringObserver = new ResizeObserver(() => fit(node, viewer, content));
  viewer.saeSteeringObserver.observe(content);
}

function fit(node, viewer, content) {
  const height = Math.min(content.scrollHeight + 14, 420);
  if (!content.scrollHeight || height === viewer.saeSteeringHeight) return;
  viewer.saeSteeringHeight = height;
  const [, least] = node.computeSize();
  const width = viewer.element.dataset.kind === "table" ? 400 : 300;
  if (node.size[1] < least || node.size[0] < width) {
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], least)]);
  }
  node.graph?.setDirtyCanvas?.(true, true);
}
