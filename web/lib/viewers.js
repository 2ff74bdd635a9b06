// What nodes found, shown inside them: after a run, after a reload of the page, and when the graph is drawn anew.
import { app } from "../../../scripts/app.js";
import { browserOf } from "./browser.js";
import { compareOf } from "./compare.js";
import { addElement, el, makeRoom, shield } from "./dom.js";
import { executionNodes, inputsOf, rootGraph } from "./graph.js";
import { panelOf } from "./mixer.js";
import { painterOf } from "./painter.js";
import { history, reports, workflowOf } from "./server.js";
import { drawReport, drawTable } from "./table.js";

const NAME = "sae_steering_result";
const TYPE = "sae_steering.result";
const STEERERS = new Set(["FluxActivationSteer", "LoadRecipe", "ConceptSteer", "LoadShapesDemo"]);
const VIEWERS = new Set([
  ...STEERERS,
  ...["TopActivatingFeatures", "TopEmbedFeatures", "InspectSAE", "InspectModel", "ClipEmbedSteer", "BlendEmbedFeatures"],
  ...["ContrastDirection", "ContrastPictures", "SaveDirections"],
  ...["CalibrateStrength", "LabelFeatures", "LabelEmbedFeatures", "SaveRecipe", "FeatureMixer", "FeatureBrowser", "ExportSAE"],
  ...["CollectActivations", "TrainSAE", "TrainEmbedSAE", "EvaluateSAE", "BeforeAndAfter", "PaintRegion"],
]);
const EARLIER = 24; // prompts that are looked through after a reload
const HIGHEST = 240; // units; longer results scroll

const NEWEST = 12; // results of one node that are kept, each of other inputs

const results = new Map(); // newest last, {output, report, inputs}, by graph and execution id: live as long as the page
let run = { cached: new Set(), told: new Set(), reported: new Set() }; // the one under way: who has told of it

export function isViewer(node) {
  return VIEWERS.has(node.comfyClass);
}

/** A run begins. */
export function began(id) {
  run = { cached: new Set(), told: new Set(), reported: new Set(), workflow: workflowOf(id).catch(() => undefined) };
}

/** Nodes in a run's cache tell their output again, without having run. */
export function expectCached(nodes) {
  run.cached = new Set(nodes.map(String));
}

/** A sampling reported what a steering node did. */
export async function reported(id, report) {
  run.reported.add(String(id));
  await keep(String(id), (known) => ({ output: known?.output, report }));
}

/**
 * A node's output came with a run. A node in the run's cache did not run: its last report still holds, as does one that
 * it gave while it ran.
 */
export async function executed(id, output) {
  if (!output) return;
  const again = run.cached.has(String(id));
  const holds = again || run.reported.has(String(id));
  await keep(String(id), (known) => ({ output, report: holds ? known?.report : undefined }));
  const node = executionNodes().get(String(id));
  // a page that did not see the run in which it steered asks the server for it
  if (again && STEERERS.has(node?.comfyClass) && !newest(String(id))?.report) await restoreFromHistory(new Map([[String(id), node]]), rootGraph().serialize(), true);
}

async function keep(id, change) {
  const node = executionNodes().get(id);
  if (!node || !isViewer(node)) return;
  const { workflow, told } = run;
  told.add(id);
  const key = keyOf(id);
  const result = { ...change(newest(id)), inputs: undefined };
  put(key, result);
  show(node, result);
  const ran = await workflow;
  result.inputs = inputsOf(ran ?? rootGraph().serialize(), id);
}

function put(key, result) {
  const kept = (results.get(key) ?? []).filter(({ inputs }) => inputs && inputs !== result.inputs);
  results.set(key, [...kept, result].slice(-NEWEST));
}

function newest(id) {
  return results.get(keyOf(id))?.at(-1);
}

/** A run failed: what nodes show that it did not reach is of an earlier one, and what the failed node shows is of none. */
export function failed(id) {
  for (const [key, node] of executionNodes()) {
    if (!isViewer(node)) continue;
    if (key === String(id)) clear(node);
    else if (!run.told.has(key) && !run.cached.has(key)) shownBy(node)?.classList.add("sae-steering-old");
  }
}

/** A run has ended: nodes that were left out of it show nothing of what they did before. */
export function ended() {
  for (const node of executionNodes().values()) if (isViewer(node) && node.mode !== 0) clear(node);
}

function shownBy(node) {
  return node.widgets?.find((widget) => widget.name === NAME)?.element;
}

function clear(node) {
  shownBy(node)?.replaceChildren();
}

/**
 * After the graph was loaded: what this page has seen of the inputs that are there now, else what the server's history
 * knows of these. After undo it is what was there before, since the inputs may be other ones then.
 */
export async function restore() {
  const graph = rootGraph();
  if (![...executionNodes().values()].some(isViewer)) return;
  const undone = app.extensionManager?.workflow?.activeWorkflow?.changeTracker?._restoringState === true;
  const workflow = graph.serialize();
  const missing = new Map();
  for (const [id, node] of executionNodes()) {
    if (!isViewer(node)) continue;
    const kept = results.get(keyOf(id)) ?? [];
    const known = undone ? kept.at(-1) : kept.findLast(({ inputs }) => inputs === inputsOf(workflow, id));
    if (known) show(node, known);
    else if (!undone || !kept.length) missing.set(id, node);
  }
  if (missing.size) await restoreFromHistory(missing, workflow);
}

async function restoreFromHistory(missing, workflow = rootGraph().serialize(), elsewhere = false) {
  try {
    await fromHistory(missing, workflow, elsewhere);
  } catch {
    // a server without history, or none at all: the nodes show their results when they run again
  }
}

async function fromHistory(missing, workflow, elsewhere) {
  const graph = workflow.id;
  const prompts = (await history(EARLIER)).filter((prompt) => prompt.workflow && (elsewhere || prompt.workflow.id === graph));
  for (const prompt of prompts) {
    const same = (id) => inputsOf(prompt.workflow, id) === inputsOf(workflow, id);
    const mine = [...missing].filter(([id, node]) => prompt.nodes[id]?.class_type === node.comfyClass && same(id));
    const steered = mine.some(([, node]) => STEERERS.has(node.comfyClass)) ? await reports(prompt.id) : {};
    for (const [id, node] of mine) {
      const report = steered[id];
      if (!report && STEERERS.has(node.comfyClass) && prompt.cached.has(id)) continue; // an earlier run has its report
      const output = prompt.outputs[id];
      if (!(output || report)) continue;
      const [key, inputs] = [keyOf(id, graph), inputsOf(workflow, id)];
      const known = (results.get(key) ?? []).findLast((result) => result.inputs === inputs);
      // a run may have told since, or an earlier call of this; and the graph may have been loaded anew
      const result = known?.report || (known && !report) ? known : { output: output ?? known?.output, report, inputs };
      if (result !== known) put(key, result);
      if (executionNodes().get(id) === node) show(node, result);
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
  compareOf(node)?.show(output ?? {});
  painterOf(node)?.show(output?.painted_on?.[0]);
  const tables = payloads.filter((payload) => payload.kind === "table");
  const content = draw(node, tables, report, output?.text);
  if (!content) return clear(node);
  const viewer = viewerOf(node);
  viewer.element.replaceChildren(content);
  viewer.element.classList.remove("sae-steering-old");
  viewer.element.setAttribute("data-kind", tables.length ? "table" : report ? "report" : "text");
  watch(node, viewer, content);
}

/** What the last run did comes before what was found; where there is neither, the node's own lines. */
function draw(node, tables, report, text) {
  const empty = report && !report.text && !report.warnings?.length && !report.curve?.length;
  const parts = [...(report && !empty ? [drawReport(report)] : []), ...tables.map((table) => drawTable(node, table))];
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
  makeRoom(node, viewer.element, height, viewer.element.dataset.kind === "table" ? 340 : 200);
}
