// What nodes found, shown inside them: after a run, after a reload of the page, and when the graph is drawn anew.
import { browserOf } from "./browser.js";
import { el, shield } from "./dom.js";
import { executionNodes, rootGraph } from "./graph.js";
import { panelOf } from "./mixer.js";
import { drawReport } from "./report.js";
import { history, reports } from "./server.js";
import { drawTable } from "./table.js";
import { addElement, makeRoom } from "./widget.js";

const NAME = "sae_steering_result";
const TYPE = "sae_steering.result";
const STEERERS = new Set(["FluxActivationSteer", "LoadRecipe", "ConceptSteer"]);
const VIEWERS = new Set([
  ...STEERERS,
  ...["TopActivatingFeatures", "TopEmbedFeatures", "InspectSAE", "InspectModel", "ClipEmbedSteer", "BlendEmbedFeatures"],
  ...["ContrastDirection", "ContrastPictures", "SaveDirections"],
  ...["CalibrateStrength", "LabelFeatures", "LabelEmbedFeatures", "SaveRecipe", "FeatureMixer", "FeatureBrowser", "ExportSAE"],
  ...["CollectActivations", "TrainSAE", "TrainEmbedSAE", "EvaluateSAE"],
]);
const EARLIER = 24; // prompts that are looked through after a reload
const HIGHEST = 280; // units; longer results scroll

const results = new Map(); // {output, report} by graph and execution id: lives as long as the page
let cached = new Set(); // nodes of the run under way

export function isViewer(node) {
  return VIEWERS.has(node.comfyClass);
}

/** A sampling reported what a steering node did. */
export function reported(id, report) {
  keep(String(id), { ...results.get(keyOf(String(id))), report });
}

function keep(id, result) {
  const node = executionNodes().get(id);
  if (!node || !isViewer(node)) return;
  results.set(keyOf(id), result);
  show(node, result);
}

/** A run begins: nodes in its cache tell their output again, without having run. */
export function expectCached(nodes) {
  cached = new Set(nodes.map(String));
}

/** A node's output came with a run. A node in the run's cache did not run: its last report still holds. */
export function executed(id, output) {
  const known = cached.has(String(id)) ? results.get(keyOf(String(id)))?.report : undefined;
  if (output) keep(String(id), { output, report: known });
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
      if (!report && STEERERS.has(node.comfyClass) && prompt.cached.has(id)) continue; // an earlier run has its report
      const output = prompt.outputs[id];
      if (!(output || report)) continue;
      const key = keyOf(id, graph);
      // a run may have told since, or an earlier call of this; and the graph may have been loaded anew
      if (!results.has(key)) results.set(key, { output, report });
      if (executionNodes().get(id) === node) show(node, results.get(key));
      missing.delete(id);
    }
    if (!missing.size) return;
  }
}

function keyOf(id, graph = rootGraph()?.id) {
  return `${graph}/${id}`;
}

function show(node, { output, report }) {
  const payloads = output?.sae_steering ?? [];
  if (payloads[0]?.kind === "sae") {
    (panelOf(node) ?? browserOf(node))?.know(payloads[0]);
    return;
  }
  const tables = payloads.filter((payload) => payload.kind === "table");
  const content = draw(node, tables, report, output?.text);
  if (!content) return;
  const viewer = viewerOf(node);
  viewer.element.replaceChildren(content);
  viewer.element.setAttribute("data-kind", tables.length ? "table" : report ? "report" : "text");
  watch(node, viewer, content);
}

/** What the last run did comes before what was found; where there is neither, the node's own lines. */
function draw(node, tables, report, text) {
  const parts = [...(report ? [drawReport(report)] : []), ...tables.map((table) => drawTable(node, table))];
  if (parts.length) return parts.length === 1 ? parts[0] : el("div", { className: "sae-steering-parts" }, ...parts);
  const lines = (Array.isArray(text) ? text : [text]).filter((line) => typeof line === "string");
  return lines.length ? el("pre", { className: "sae-steering-text", tabIndex: 0, textContent: lines.join("\n") }) : undefined;
}

/** The widget that shows results; it has no value, so it is left out of saved workflows and prompts. */
function viewerOf(node) {
  const known = node.widgets?.find((widget) => widget.name === NAME);
  if (known) return known;
  const element = shield(el("div", { className: "sae-steering sae-steering-result" }));
  const widget = addElement(node, NAME, TYPE, element, () => widget.saeSteeringHeight ?? 60, { serialize: false });
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
  const height = Math.min(content.scrollHeight + 14, HIGHEST);
  if (!content.scrollHeight || height === viewer.saeSteeringHeight) return;
  viewer.saeSteeringHeight = height;
  makeRoom(node, viewer.element, height, viewer.element.dataset.kind === "table" ? 400 : 300);
}
