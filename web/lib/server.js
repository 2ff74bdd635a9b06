// What the pack's routes know. Answers are plain JSON; a refusal carries one sentence.
import { api } from "../../../scripts/api.js";

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error ?? response.statusText);
  return body;
}

/** Features of an SAE: those of `index`, else those whose label has the words of `q`. */
export async function findFeatures(source, query) {
  const wanted = Object.entries({ ...source, ...query }).filter(([, value]) => value !== undefined && value !== "");
  return answer(await api.fetchApi(`/sae_steering/features?${new URLSearchParams(wanted)}`));
}

/** Names a feature for good; an empty name removes the label. */
export async function rename(fingerprint, feature, name) {
  const body = JSON.stringify({ fingerprint, labels: { [feature]: name === "" ? null : name } });
  const headers = { "Content-Type": "application/json" };
  return answer(await api.fetchApi("/sae_steering/labels", { method: "POST", headers, body }));
}

/** Reports of the steering nodes in one prompt, by node. */
export async function reports(promptId) {
  const query = new URLSearchParams({ prompt_id: promptId });
  return (await answer(await api.fetchApi(`/sae_steering/reports?${query}`))).reports;
}

/** Earlier prompts, newest first: {id, workflow, nodes, outputs}. */
export async function history(count) {
  const entries = Object.entries(await answer(await api.fetchApi(`/history?max_items=${count}`)));
  return entries.reverse().map(([id, entry]) => ({
    id,
    workflow: entry.prompt?.[3]?.extra_pnginfo?.workflow?.id,
    nodes: entry.prompt?.[2] ?? {},
    outputs: entry.outputs ?? {},
  }));
}
