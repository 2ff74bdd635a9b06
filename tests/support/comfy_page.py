"""A page of ComfyUI in a real browser: builds graphs with its own LiteGraph, runs them, reads pictures back."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from comfy_client import ComfyClient
from comfy_server import PACK_FOLDER

READY = "Boolean(window.app?.graph && window.LiteGraph?.registered_node_types.FeatureMixer)"
PANEL = ".sae-steering-mixer"

# LoadShapesDemo -> TopActivatingFeatures (blue against red); FeatureMixer -> FluxActivationSteer -> KSampler
BUILD = """
() => {
  const graph = app.graph;
  graph.clear();
  graph.id = crypto.randomUUID();
  const make = (type, x, y) => {
    const node = LiteGraph.createNode(type);
    node.pos = [x, y];
    graph.add(node);
    return node;
  };
  const set = (node, values) => {
    for (const [name, value] of Object.entries(values)) node.widgets.find((w) => w.name === name).value = value;
  };
  const wire = (from, output, to, input) => {
    const at = (slots, name) => slots.findIndex((slot) => slot.name === name);
    from.connect(at(from.outputs, output), to, at(to.inputs, input));
  };
  const demo = make("LoadShapesDemo", 20, 60);
  const red = make("ShapesPrompt", 20, 300);
  const blue = make("ShapesPrompt", 20, 480);
  const size = make("EmptySD3LatentImage", 20, 660);
  const top = make("TopActivatingFeatures", 440, 60);
  const mixer = make("FeatureMixer", 920, 60);
  const steer = make("FluxActivationSteer", 920, 420);
  const sampler = make("KSampler", 1480, 60);
  const decode = make("VAEDecode", 1480, 400);
  const save = make("SaveImage", 1480, 520);
  set(red, { text: "red square left big white" });
  set(blue, { text: "blue square left big white" });
  set(size, { width: 128, height: 128 });
  set(top, { count: 5 });
  set(steer, { strength: 1 });
  set(sampler, { seed: 7, steps: 4, cfg: 1, sampler_name: "euler", scheduler: "simple",
    control_after_generate: "fixed" });
  wire(demo, "model", top, "model");
  wire(demo, "sae_text", top, "sae");
  wire(blue, "conditioning", top, "positive");
  wire(red, "conditioning", top, "baseline");
  wire(size, "LATENT", top, "latent_image");
  wire(demo, "sae_text", mixer, "sae");
  wire(demo, "model", steer, "model");
  wire(demo, "sae_text", steer, "sae");
  wire(mixer, "features", steer, "features");
  wire(steer, "model", sampler, "model");
  wire(red, "conditioning", sampler, "positive");
  wire(red, "conditioning", sampler, "negative");
  wire(size, "LATENT", sampler, "latent_image");
  wire(sampler, "LATENT", decode, "samples");
  wire(demo, "vae", decode, "vae");
  wire(decode, "IMAGE", save, "images");
  Object.assign(app.canvas.ds, { scale: 0.8 });
  app.canvas.ds.offset = [60, 40];
  app.canvas.setDirty(true, true);
}
"""

# What a person sees of a node's panel or result: the element at a point inside the node's own area.
SEEN = """
(type) => {
  const node = app.canvas.graph.nodes.find((n) => n.comfyClass === type);
  const { left, top } = app.canvas.canvas.getBoundingClientRect();
  const { scale, offset } = app.canvas.ds;
  const x = left + (node.pos[0] + node.size[0] / 2 + offset[0]) * scale;
  for (let down = 0; down < node.size[1]; down += 8) {
    const y = top + (node.pos[1] + down + offset[1]) * scale;
    const found = document.elementFromPoint(x, y)?.closest(".sae-steering");
    if (found) return found;
  }
  return null;
}
"""
ROWS = f"""
() => {{
  const panel = ({SEEN})("FeatureMixer");
  const node = app.canvas.graph.nodes.find((n) => n.comfyClass === "FeatureMixer");
  const value = JSON.parse(node.widgets.find((widget) => widget.name === "mix").value);
  const rows = [...(panel?.querySelectorAll(".sae-steering-row") ?? [])];
  return {{
    seen: panel && rows.map((row) => [
      Number(row.querySelector(".sae-steering-index").textContent),
      row.querySelector(".sae-steering-number").valueAsNumber,
      row.querySelector("[type=checkbox]").checked,
    ]),
    value: value.rows.map((row) => [row.feature, row.strength, row.on]),
  }};
}}
"""
# In Nodes 2.0 a node is as large as its element, which may be larger than the node's own size.
BOXES = """
() => {
  const { left, top } = app.canvas.canvas.getBoundingClientRect();
  const { scale, offset } = app.canvas.ds;
  const of = (node) => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const [x, y] = node.pos;
    if (!element && node.flags?.collapsed) return [x, y - 30, x + (node._collapsed_width ?? 100), y];
    if (!element) return [x, y - 30, x + node.size[0], y + node.size[1]];
    const box = element.getBoundingClientRect();
    return [(box.left - left) / scale - offset[0], (box.top - top) / scale - offset[1],
      (box.right - left) / scale - offset[0], (box.bottom - top) / scale - offset[1]];
  };
  return Object.fromEntries(app.graph.nodes.map((node) => [`${node.id} ${node.title}`, of(node)]));
}
"""
SET_AGAIN = """
async (wanted) => {
  const { setting } = app.extensionManager;
  for (const [name, value] of Object.entries(wanted)) if (setting.get(name) !== value) await setting.set(name, value);
}
"""
CLOSE_OTHERS = """
async () => {
  const tabs = app.extensionManager.workflow;
  for (const tab of [...tabs.openWorkflows]) if (tab.path !== tabs.activeWorkflow.path) await tabs.closeWorkflow(tab);
}
"""
# The rows in the state that core has kept last for undo; null inside a subgraph, which core keeps elsewhere.
KEPT = """
() => {
  const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
  if (!tracker) return null;
  if (tracker._restoringState) return "an undo is under way";
  const node = tracker.activeState?.nodes?.find((candidate) => candidate.type === "FeatureMixer");
  const value = node?.widgets_values?.find((kept) => typeof kept === "string" && kept.includes('"rows"'));
  return value ? JSON.parse(value).rows.map((row) => [row.feature, row.strength, row.on]) : null;
}
"""

# The panel's size in that state, and on the screen: where they differ, core takes one more step of undo.
SIZES = """
() => {
  const { activeState } = app.extensionManager.workflow.activeWorkflow.changeTracker;
  return [activeState, app.graph].map(({ nodes }) => [...nodes.find(({ type }) => type === "FeatureMixer").size]);
}
"""
VIEWPORT = {"width": 1900, "height": 1000}


class ComfyPage:
    def __init__(self, browser: Any, client: ComfyClient, vue: bool) -> None:
        self.client = client
        self.settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue}
        self.settings |= {"Comfy.Minimap.Visible": False, "Comfy.RightSidePanel.IsOpen": False}
        self.settings["Comfy.ColorPalette"] = "dark"
        self.complaints: list[str] = []
        self.workflow_in_picture = ""  # what core's SaveImage wrote into the last picture
        self.page = browser.new_page(viewport=VIEWPORT)
        self.page.set_default_timeout(30_000)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.open()

    def _heard(self, message: Any) -> None:
        told = f"{message.text} {message.location.get('url', '')}"
        ours = any(mark in told for mark in (PACK_FOLDER, "sae_steering", "sae-steering"))
        if message.type in ("error", "warning") and ours:
            self.complaints.append(f"{message.type}: {told}")

    def open(self) -> None:
        """Loads the page, also anew. The server has one set of settings for all pages."""
        for name, value in self.settings.items():
            self.client.post(f"/settings/{name}", value)
        self.page.goto(self.client.address, timeout=120_000)
        self.page.wait_for_function(READY, timeout=120_000)
        self.page.wait_for_timeout(2500)

    def begin(self) -> None:
        """A new empty workflow, as a new tab of core; what earlier tests said, saved and set is forgotten."""
        self.complaints.clear()
        self.workflow_in_picture = ""
        self.page.set_viewport_size(VIEWPORT)
        self.page.evaluate(SET_AGAIN, self.settings)
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        self.page.wait_for_function("() => app.canvas.graph === app.rootGraph && app.graph.nodes.length === 0")
        self.page.evaluate(CLOSE_OTHERS)
        self.page.wait_for_timeout(500)

    def close(self) -> None:
        self.page.close()

    def build(self) -> None:
        """The graph above, loaded as a saved one: core saves nodes without widgets otherwise after an undo."""
        self.page.evaluate(BUILD)
        self.load(self.save())
        self.page.wait_for_timeout(700)

    def run(self) -> np.ndarray:
        """Runs the graph as the Run button does; the picture (height, width, 3) that SaveImage wrote."""
        return self._picture(self.finish())

    def finish(self, queue: str = "app.queuePrompt(0, 1)", seconds: float = 120) -> dict[str, Any]:
        """Runs the graph, by `queue`; what the server tells of the run."""
        before = set(self.client.get_json("/history"))
        self.page.evaluate(f"() => {{ {queue}; }}")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for key, entry in self.client.get_json("/history").items():
                if key not in before:
                    assert entry["status"]["status_str"] == "success", entry["status"]
                    self.page.wait_for_timeout(700)
                    return entry
            time.sleep(0.1)
        raise TimeoutError("the prompt has not finished")

    def _picture(self, entry: dict[str, Any]) -> np.ndarray:
        saved = next(images for out in entry["outputs"].values() if (images := out.get("images")))
        picture = Image.open(io.BytesIO(self.client.view(saved[0])))
        self.workflow_in_picture = picture.info["workflow"]
        return np.asarray(picture.convert("RGB")).copy()

    def picture(self, saved: dict[str, str]) -> torch.Tensor:
        """A picture (3, height, width) in 0..1 that a node showed or saved."""
        shown = Image.open(io.BytesIO(self.client.view(saved))).convert("RGB")
        return torch.from_numpy(np.array(shown)).movedim(-1, 0).float() / 255

    def mix(self) -> list[dict[str, Any]]:
        """The rows of the panel's value, as it goes into the prompt."""
        value = self.page.evaluate(
            "async () => Object.values((await app.graphToPrompt()).output)"
            ".find((node) => node.class_type === 'FeatureMixer').inputs.mix"
        )
        return json.loads(value)["rows"]

    def see(self, wanted: list[list[Any]]) -> None:
        """Waits until the panel on the screen and its value both have the wanted rows: feature, strength, on.

        An undo under way is waited for, core takes no next one until it has ended, and so is what undo goes back to:
        core keeps a change a moment after it is on the screen.
        """
        same = f"(wanted) => {{ const {{ seen, value }} = ({ROWS})(); const kept = ({KEPT})();"
        same += (
            " return [seen, value, kept ?? value].every((rows) => JSON.stringify(rows) === JSON.stringify(wanted)); }"
        )
        try:
            self.page.wait_for_function(same, arg=wanted, timeout=30_000, polling=100)
        except Exception as error:
            raise AssertionError(f"wanted {wanted}, there is {self.page.evaluate(ROWS)}") from error

    def result(self, kind: str) -> str:
        """The text on the screen where a node shows its result; waits until it is that node's own widget."""
        own = f"(kind) => {{ const element = ({SEEN})(kind); const node = app.canvas.graph.nodes.find("
        own += "(n) => n.comfyClass === kind); return element && node.widgets.some((w) => w.element === element); }"
        self.page.wait_for_function(own, arg=kind, timeout=30_000, polling=100)
        return self.page.evaluate(f"(kind) => ({SEEN})(kind).innerText", kind)

    def drag(self, at: int, share: float) -> None:
        """Turns a row's slider with the mouse, from where it is to a share of its width."""
        slider = self.row(at).locator(".sae-steering-slider")
        box = slider.bounding_box()
        low, high, value = (float(slider.evaluate(f"(s) => s.{name}")) for name in ("min", "max", "value"))
        y, width, thumb = box["y"] + box["height"] / 2, box["width"], 12
        self.page.mouse.move(box["x"] + thumb / 2 + (width - thumb) * (value - low) / (high - low), y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + width * share, y, steps=5)
        self.page.mouse.up()

    def save(self) -> str:
        return self.page.evaluate("() => JSON.stringify(app.rootGraph.serialize())")

    def load(self, workflow: str) -> None:
        self.page.evaluate("(text) => app.loadGraphData(JSON.parse(text))", workflow)
        self.page.wait_for_timeout(1500)

    def take(self, rank: int) -> None:
        """Clicks a row of the table, which adds its feature to the panel once the server has told whose it is."""
        before = self.features()
        self.page.locator(".sae-steering-take").nth(rank).click()
        for _ in range(25):
            self.page.wait_for_timeout(200)
            if self.features() != before:
                break
        self.page.wait_for_timeout(400)

    def names(self, output: str, feature: int) -> str | None:
        """What the server calls a feature of an SAE of LoadShapesDemo."""
        query = f"loader=LoadShapesDemo&output={output}&index={feature}"
        return self.client.get_json(f"/sae_steering/features?{query}")["features"][0].get("name")

    def row(self, at: int) -> Any:
        return self.page.locator(f"{PANEL} .sae-steering-row").nth(at)

    def features(self) -> list[int]:
        return [int(text) for text in self.page.locator(f"{PANEL} .sae-steering-index").all_inner_texts()]

    def slide(self, at: int, strength: float) -> None:
        self.row(at).locator(".sae-steering-slider").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input'));"
            " slider.dispatchEvent(new Event('change')); }",
            strength,
        )
        self.page.wait_for_timeout(200)

    def deselect(self) -> None:
        """Gives the keyboard back to the canvas, also from what takes it a moment after a click."""
        for _ in range(2):
            self.page.evaluate(
                "() => { document.activeElement?.blur(); app.canvas.deselectAll(); app.canvas.canvas.focus(); }"
            )
            self.page.wait_for_timeout(100)

    def fit(self) -> float:
        """Shows the whole graph; the scale."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(900)
        return self.page.evaluate("() => app.canvas.ds.scale")

    def boxes(self) -> dict[str, list[float]]:
        """Each node's area as it is on the screen, title and all, in the graph's units: left, top, right, bottom."""
        return self.page.evaluate(BOXES)
