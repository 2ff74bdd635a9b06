// Names in tables that were drawn before somebody renamed a feature.
import { findFeatures } from "./server.js";

/** Marks where a table shows a feature's name. */
export function nameCell(cell, feature) {
  cell.setAttribute("data-feature", feature);
  return cell;
}

/** A feature was renamed: all tables of its SAE on the page say so. */
export function renamed(fingerprint, feature, name) {
  for (const table of document.querySelectorAll(`[data-fingerprint="${CSS.escape(fingerprint)}"]`)) {
    for (const cell of table.querySelectorAll(`[data-feature="${Number(feature)}"]`)) cell.textContent = name;
  }
}

/** A table may come from a cache or from the history: what the user has named since is asked. */
export async function refreshNames(payload) {
  const index = payload.rows.map((row) => row.feature).join(",");
  if (!index || !payload.fingerprint) return;
  try {
    const { features } = await findFeatures({ fingerprint: payload.fingerprint }, { index });
    for (const { feature, name } of features) if (name) renamed(payload.fingerprint, feature, name);
  } catch {
    // the names that came with the table stay
  }
}
