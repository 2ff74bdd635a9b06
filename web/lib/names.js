// Names in tables that were drawn before somebody renamed a feature.
import { featuresOf } from "./server.js";

/** Marks where a table shows a feature's name. */
export function nameCell(cell, feature) {
  cell.setAttribute("data-feature", feature);
  return cell;
}

export const RENAMED = "sae_steering.renamed"; // told to each list of an SAE on the page

/** A feature was renamed: all tables and lists of its SAE on the page say so. */
export function renamed(fingerprint, feature, name) {
  for (const list of show(fingerprint, feature, name)) list.dispatchEvent(new CustomEvent(RENAMED));
}

function show(fingerprint, feature, name) {
  const lists = [...document.querySelectorAll(`[data-fingerprint="${CSS.escape(fingerprint)}"]`)];
  for (const list of lists) {
    for (const cell of list.querySelectorAll(`[data-feature="${Number(feature)}"]`)) cell.textContent = name;
  }
  return lists;
}

/** A table may come from a cache or from the history: what the user has named since is asked. */
export async function refreshNames(payload) {
  const asked = payload.rows.map((row) => row.feature);
  if (!payload.fingerprint) return;
  try {
    const { features } = await featuresOf({ fingerprint: payload.fingerprint }, asked);
    for (const { feature, name } of features) if (name) show(payload.fingerprint, feature, name);
  } catch {
    // the names that came with the table stay
  }
}
