// The pack's one entry: registers its widget, and shows on nodes what they found.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { createMixer, panelOf } from "./lib/mixer.js";
import { remember, restore } from "./lib/viewers.js";

const REPORT = "sae_steering.report";
const PANEL_WIDTH = 440; // of a new Feature Mixer

function loadStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./sae_steering.css", import.meta.url).href;
  document.head.append(link);
}

app.registerExtension({
  name: "sae-steering.features",

  getCustomWidgets() {
    return { SAE_STEERING_MIX: (node, name, spec) => ({ widget: createMixer(node, name, spec?.[1]?.default) }) };
  },

  setup() {
    loadStyle();
    api.addEventListener("executed", ({ detail }) => remember(detail.display_node ?? detail.node, detail.output));
    api.addEventListener(REPORT, ({ detail }) => remember(detail.node, { sae_steering: [detail.report] }));
  },

  nodeCreated(node) {
    if (panelOf(node) && node.size[0] < PANEL_WIDTH) node.setSize([PANEL_WIDTH, node.size[1]]);
  },

  async afterConfigureGraph() {
    await restore();
  },
});
