"""A page of ComfyUI in a real browser: builds graphs with its own LiteGraph, runs them, reads pictures back."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import numpy as np
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
  const steer = make("FluxActivationSteer", 920, 380);
  const sampler = make("KSampler", 1400, 60);
  const decode = make("VAEDecode", 1400, 400);
  const save = make("SaveImage", 1400, 520);
  set(red, { text: "red square left big white" });
  set(blue, { text: "blue square left big white" });
  set(size, { width: 128, height: 128 });
  set(top, { count: 5, control_after_generate: "fixed" });
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


class ComfyPage:
    def __init__(self, browser: Any, client: ComfyClient, vue: bool) -> None:
        self.client = client
        settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue, "Comfy.Minimap.Visible": False}
        for name, value in settings.items():
            client.post(f"/settings/{name}", value)
        self.complaints: list[str] = []
        self.workflow_in_picture = ""  # what core's SaveImage wrote into the last picture
        self.page = browser.new_page(viewport={"width": 1900, "height": 1000})
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.open()

    def _heard(self, message: Any) -> None:
        told = f"{message.text} {message.location.get('url', '')}"
        if message.type in ("error", "warning") and (PACK_FOLDER in told or "sae_steering" in told or "sae-" in told):
            self.complaints.append(f"{message.type}: {told}")

    def open(self) -> None:
        """Loads the page, also anew."""
        self.page.goto(self.client.address)
        self.page.wait_for_function(READY, timeout=120_000)
        self.page.wait_for_timeout(2500)

    def close(self) -> None:
        self.page.close()

    def build(self) -> None:
        self.page.evaluate(BUILD)
        self.page.wait_for_timeout(700)

    def run(self) -> np.ndarray:
        """Runs the graph as the Run button does; the picture (height, width, 3) that SaveImage wrote."""
        before = set(self.client.get_json("/history"))
        self.page.evaluate("() => app.queuePrompt(0, 1)")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for key, entry in self.client.get_json("/history").items():
                if key not in before:
                    assert entry["status"]["status_str"] == "success", entry["status"]
                    self.page.wait_for_timeout(700)
                    return self._picture(entry)
            time.sleep(0.1)
        raise TimeoutError("the prompt has not finished")

    def _picture(self, entry: dict[str, Any]) -> np.ndarray:
        saved = next(images for out in entry["outputs"].values() if (images := out.get("images")))
        picture = Image.open(io.BytesIO(self.client.view(saved[0])))
        self.workflow_in_picture = picture.info["workflow"]
        return np.asarray(picture.convert("RGB")).copy()

    def mix(self) -> list[dict[str, Any]]:
        """The rows of the panel's value, as it goes into the prompt."""
        value = self.page.evaluate(
            "async () => Object.values((await app.graphToPrompt()).output)"
            ".find((node) => node.class_type === 'FeatureMixer').inputs.mix"
        )
        return json.loads(value)["rows"]

    def strengths(self, wanted: list[float]) -> list[float]:
        """The rows' strengths, as soon as they are the wanted ones, else after ten seconds."""
        for _ in range(50):
            found = [row["strength"] for row in self.mix()]
            if found == wanted:
                break
            self.page.wait_for_timeout(200)
        return found

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
        """Gives the keyboard back to the canvas."""
        self.page.evaluate(
            "() => { document.activeElement?.blur(); app.canvas.deselectAll(); app.canvas.canvas.focus(); }"
        )
