// Finding nodes by their execution id, and the SAE that is wired into one, through reroutes and subgraphs.
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
