// The pack's one entry: registers its widgets, and shows on nodes what they found.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { browserOf, createBrowser } from "./lib/browser.js";
import { createCompare } from "./lib/compare.js";
import { executionNodes } from "./lib/graph.js";
import { createMixer, panelOf } from "./lib/mixer.js";
import { createPainter } from "./lib/painter.js";
import { forgetPictures } from "./lib/pictures.js";
import { nameTextFields } from "./lib/text_fields.js";
import { began, ended, executed, expectCached, failed, reported, restore } from "./lib/viewers.js";

const REPORT = "sae_steering.report";
const MENU = "SAE Steering"; // where the pack's nodes are in the library
const PANEL_WIDTH = 520; // of a new Feature Mixer

function loadStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./sae_steering.css", import.meta.url).href;
  document.head.append(link);
}

/** The graph has changed: panels tell of the method that they are wired to, lists show the SAE that is connected. */
function followGraph() {
  for (const node of executionNodes().values()) {
    panelOf(node)?.explain();
    browserOf(node)?.follow();
  }
}

/** A run has ended, which may have made pictures, names or ranges. */
function refreshLists() {
  forgetPictures();
  for (const node of executionNodes().values()) browserOf(node)?.refresh();
}

app.registerExtension({
  name: "sae-steering.features",

  getCustomWidgets() {
    return {
      SAE_STEERING_MIX: (node, name, spec) => ({ widget: createMixer(node, name, spec?.[1]?.default) }),
      SAE_STEERING_STROKES: (node, name, spec) => ({ widget: createPainter(node, name, spec?.[1]?.default) }),
    };
  },

  setup() {
    loadStyle();
    api.addEventListener("execution_start", ({ detail }) => began(detail.prompt_id));
    api.addEventListener("execution_error", ({ detail }) => failed(detail.node_id));
    api.addEventListener("execution_cached", ({ detail }) => expectCached(detail.nodes));
    api.addEventListener("executed", ({ detail }) => executed(detail.display_node ?? detail.node, detail.output));
    api.addEventListener(REPORT, ({ detail }) => reported(detail.node, detail.report));
    api.addEventListener("execution_success", () => {
      ended();
      refreshLists();
    });
    api.addEventListener("graphChanged", followGraph);
  },

  nodeCreated(node) {
    if (node.comfyClass === "FeatureBrowser") createBrowser(node);
    if (node.comfyClass === "BeforeAndAfter") createCompare(node);
    if (node.constructor?.category?.startsWith(MENU) || node.category?.startsWith(MENU)) nameTextFields(node);
    if (panelOf(node) && node.size[0] < PANEL_WIDTH) node.setSize([PANEL_WIDTH, node.size[1]]);
  },

  async afterConfigureGraph() {
    followGraph();
    await restore();
  },
});
