// A click on a feature, in a table or in a browser, adds it to a Feature Mixer of the same SAE.
import { app } from "../../../scripts/app.js";
import { executionNodes } from "./graph.js";
import { panelOf } from "./mixer.js";

/**
 * Puts the feature into the selected panel, else into one of the same SAE, else into the only one there is.
 *
 * `sae` tells whose it is: {fingerprint, owner, count}. What became of it is told at the corner of the window, since where
 * it was clicked there may be no room.
 */
export async function take(sae, feature) {
  const panels = [...executionNodes().values()].map((node) => ({ node, panel: panelOf(node) })).filter(({ panel }) => panel);
  const chosen =
    panels.find(({ node }) => app.canvas?.selected_nodes?.[node.id] === node) ??
    panels.find(({ panel }) => panel.fingerprint === sae.fingerprint) ??
    panels.find(({ panel }) => panel.fingerprint === undefined);
  if (!chosen) {
    toast(
      "warn",
      panels.length
        ? "The panels here belong to other SAEs; select the one you mean, or add another."
        : "There is no Feature Mixer in this workflow; add one, then click again.",
    );
    return;
  }
  const { panel, node } = chosen;
  const owner = panel.source ? await panel.whose(feature.feature).catch(() => undefined) : undefined;
  if (owner && sae.owner && owner.identity !== sae.owner.identity) {
    toast("warn", `Feature ${feature.feature} is of ${sae.owner.name}, but ${node.title} has ${owner.name}.`);
    return;
  }
  toast("success", `Feature ${feature.feature} is in ${node.title}.`);
  panel.know(sae);
  panel.add(feature);
}

const SHOWN = { success: 3000, warn: 8000 }; // milliseconds

export function toast(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "SAE Steering", detail, life: SHOWN[severity] });
}
