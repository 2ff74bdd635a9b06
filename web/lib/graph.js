// Finding nodes by their execution id, the SAE that is wired into one, through reroutes and subgraphs, and all that lies
// before a node in a saved workflow: by this a result is known to be of what is there now.
import { app } from "../../../scripts/app.js";

const SUBGRAPH_INPUT = -10; // LiteGraph's id for the box where a subgraph's inputs begin
const FURTHEST = 100;

export function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/** All nodes by execution id: "3", or "1:3" inside the subgraph of node 1. */
export function executionNodes(graph = rootGraph(), prefix = "", found = new Map()) {
  for (const node of graph?.nodes ?? []) {
    const id = `${prefix}${node.id}`;
    found.set(id, node);
    if (node.subgraph) executionNodes(node.subgraph, `${id}:`, found);
  }
  return found;
}

export function executionId(node) {
  for (const [id, candidate] of executionNodes()) if (candidate === node) return id;
  return undefined;
}

function linkOf(graph, id) {
  if (id === null || id === undefined) return undefined;
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id];
}

/** Where a subgraph's input comes from: the node that holds it, and the link into it. */
function outside(graph, slot) {
  for (const node of executionNodes().values()) {
    if (node.subgraph === graph) return { graph: node.graph, link: linkOf(node.graph, node.inputs?.[slot]?.link) };
  }
  return {};
}

/** The node and output that an input is wired to; undefined where nothing is. */
export function originOf(node, name) {
  let graph = node.graph;
  if (!graph) return undefined; // not in a graph yet, or no more
  let link = linkOf(graph, node.inputs?.find((input) => input.name === name)?.link);
  for (let step = 0; link && step < FURTHEST; step++) {
    if (Number(link.origin_id) === SUBGRAPH_INPUT) {
      ({ graph, link } = outside(graph, link.origin_slot));
      continue;
    }
    const origin = graph.getNodeById(link.origin_id);
    if (!origin) return undefined;
    if (origin.subgraph) {
      const inner = origin.subgraph.outputs?.[link.origin_slot]?.linkIds?.[0];
      graph = origin.subgraph;
      link = linkOf(graph, inner);
      continue;
    }
    if (origin.type !== "Reroute") return { node: origin, slot: link.origin_slot };
    link = linkOf(graph, origin.inputs?.[0]?.link);
  }
  return undefined;
}

/** How the server is told which SAE is wired into a node; undefined for loaders that are not ours. */
export function saeSource(node) {
  const origin = originOf(node, "sae");
  if (!origin) return undefined;
  const value = (name) => origin.node.widgets?.find((widget) => widget.name === name)?.value;
  const loader = origin.node.comfyClass;
  if (loader === "LoadSAE") return { loader, sae_name: value("sae_name"), architecture: value("architecture") };
  if (loader === "LoadShapesDemo" || loader === "LoadShapesKandinsky") {
    return { loader, output: origin.node.outputs[origin.slot].name };
  }
  return undefined;
}

/** Runs a change of the graph as one step of undo. */
export function asOneChange(change) {
  app.canvas?.emitBeforeChange?.();
  try {
    return change();
  } finally {
    app.canvas?.emitAfterChange?.();
  }
}

const SEEDS = new Set(["fixed", "increment", "decrement", "randomize"]); // core changes the number before these by itself

/** A text that is equal for two saved workflows where the node, by execution id, and all before it are the same. */
export function inputsOf(workflow, id) {
  const [first, ...inner] = String(id).split(":");
  const root = chain(workflow, first);
  if (!inner.length) return root;
  const definitions = workflow.definitions?.subgraphs ?? [];
  return `${root} ${JSON.stringify(definitions.map(({ nodes }) => nodes.map((node) => content(node))))}`;
}

function chain(workflow, id) {
  const nodes = new Map((workflow.nodes ?? []).map((node) => [String(node.id), node]));
  const links = new Map((workflow.links ?? []).map((link) => {
    const [key, from, slot] = Array.isArray(link) ? link : [link.id, link.origin_id, link.origin_slot];
    return [key, { from: String(from), slot }];
  }));
  const seen = new Map();
  const visit = (at) => {
    const node = nodes.get(at);
    if (!node || seen.has(at)) return;
    seen.set(at, undefined); // its place in the order
    const wired = (node.inputs ?? []).map((input) => [input.name, links.get(input.link)]).filter(([, link]) => link);
    seen.set(at, [at, content(node), wired.map(([name, { from, slot }]) => [name, from, slot])]);
    for (const [, { from }] of wired) visit(from);
  };
  visit(id);
  return JSON.stringify([...seen.values()]);
}

function content({ type, mode = 0, widgets_values: values = [] }) {
  const kept = Array.isArray(values) ? values.filter((value, at) => !SEEDS.has(values[at + 1])) : values;
  return [type, mode, kept];
}
