// What the pack's routes know. Answers are plain JSON; a refusal carries one sentence.
import { api } from "../../../scripts/api.js";

const MOST_ASKED = 200; // features of one answer, as feature_queries.py has it

async function answer(asked) {
  const response = await asked.catch(() => undefined);
  if (!response) throw new Error("ComfyUI does not answer; is it still running?");
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error ?? response.statusText);
  return body;
}

async function ask(route, query) {
  const wanted = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  return answer(api.fetchApi(`/sae_steering/${route}?${new URLSearchParams(wanted)}`));
}

async function send(route, content) {
  const headers = { "Content-Type": "application/json" };
  return answer(api.fetchApi(`/sae_steering/${route}`, { method: "POST", headers, body: JSON.stringify(content) }));
}

/** Features of an SAE: those of `index`, else those whose label has the words of `q`. */
export function findFeatures(source, query) {
  return ask("features", { ...source, ...query });
}

/** As findFeatures, by their numbers, however many: asked in parts as large as the server's answers. */
export async function featuresOf(source, numbers) {
  const parts = [];
  for (let first = 0; first < numbers.length; first += MOST_ASKED) {
    parts.push(await findFeatures(source, { index: numbers.slice(first, first + MOST_ASKED).join(",") }));
  }
  const all = (what) => parts.flatMap((part) => part[what] ?? []);
  return { ...parts.at(-1), features: all("features"), warnings: [...new Set(all("warnings"))] };
}

/** A page of all features of an SAE, with pictures: `many` after `first` of those that `q` means, in the order `sort`. */
export function browseFeatures(source, query) {
  return ask("browse", { ...source, ...query });
}

/** The pictures on which features fire most: {gallery, pictures, owner}. */
export function featurePictures(source, features) {
  return ask("pictures", { ...source, index: features.join(",") });
}

/** Names a feature for good; an empty name removes the label. */
export function rename(fingerprint, feature, name) {
  return send("labels", { fingerprint, labels: { [feature]: name === "" ? null : name } });
}

/** The recipes in output/sae/recipes, those that fit the SAE first. */
export function listRecipes(source) {
  return ask("recipes", source ?? {});
}

/** The value of a panel that a recipe makes: of its `name` in the folder, or of its text, `recipe`. */
export function openRecipe(source, recipe) {
  return send("preset", { source, ...recipe });
}

/** A picture that lies in a folder of ComfyUI's output, small. */
export function outputPicture(folder, filename) {
  const query = new URLSearchParams({ filename, subfolder: folder, type: "output", preview: "webp;75" });
  return api.apiURL(`/view?${query}`);
}

/** The address of a picture that a node showed, as ComfyUI names its file. */
export function shownPicture({ filename, subfolder = "", type = "temp" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

/** Reports of the steering nodes in one prompt, by node. */
export async function reports(promptId) {
  return (await ask("reports", { prompt_id: promptId })).reports;
}

/** The saved workflow of a prompt that waits, runs, or has run. */
export async function workflowOf(promptId) {
  const { queue_running: running = [], queue_pending: pending = [] } = await answer(api.fetchApi("/queue"));
  const queued = [...running, ...pending].find(([, id]) => id === promptId);
  const prompt = queued ?? (await answer(api.fetchApi(`/history/${promptId}`)))[promptId]?.prompt;
  return prompt?.[3]?.extra_pnginfo?.workflow;
}

/** Earlier prompts, newest first: {id, workflow, nodes, outputs, cached}; `cached` nodes did not run in it. */
export async function history(count) {
  const entries = Object.entries(await answer(api.fetchApi(`/history?max_items=${count}`)));
  return entries.reverse().map(([id, entry]) => ({
    id,
    workflow: entry.prompt?.[3]?.extra_pnginfo?.workflow,
    nodes: entry.prompt?.[2] ?? {},
    outputs: entry.outputs ?? {},
    cached: new Set((entry.status?.messages ?? []).flatMap(([kind, told]) => (kind === "execution_cached" ? told.nodes : []))),
  }));
}
