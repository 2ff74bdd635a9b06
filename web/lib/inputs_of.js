// What a node was given, all that lies before it in a saved workflow: by this a result is known to be of what is there now.

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
