"""The blueprint "Find and steer": ComfyUI lists it, and wired to Shapes it turns red into blue."""

import json

from project_files import ROOT

BLUEPRINT = ROOT / "subgraphs" / "Find and steer.json"

USE = """
(blueprint) => {
  app.loadGraphData(blueprint);
}
"""
WIRE = """
() => {
  const node = app.graph.nodes.find((n) => n.subgraph);
  const make = (type, values = {}) => {
    const made = LiteGraph.createNode(type);
    app.graph.add(made);
    for (const [name, value] of Object.entries(values)) made.widgets.find((w) => w.name === name).value = value;
    return made;
  };
  const wire = (from, output, to, input) =>
    from.connect(output, to, to.inputs.findIndex((slot) => slot.name === input));
  const demo = make("LoadShapesDemo");
  const [blue, red, prompt] = ["blue square center big grey", "red square center big grey",
    "red circle left big white"].map((text) => make("ShapesPrompt", { text }));
  const size = make("EmptySD3LatentImage", { width: 128, height: 128 });
  const sampler = make("KSampler", { seed: 42, steps: 8, cfg: 1, sampler_name: "euler", scheduler: "simple" });
  const decode = make("VAEDecode");
  const save = make("SaveImage");
  wire(demo, 0, node, "model");
  wire(demo, 2, node, "sae");
  wire(blue, 0, node, "positive");
  wire(red, 0, node, "baseline");
  wire(size, 0, node, "latent_image");
  wire(node, 0, sampler, "model");
  wire(prompt, 0, sampler, "positive");
  wire(prompt, 0, sampler, "negative");
  wire(size, 0, sampler, "latent_image");
  wire(sampler, 0, decode, "samples");
  wire(demo, 1, decode, "vae");
  wire(decode, 0, save, "images");
}
"""


def test_comfyui_lists_it(server):
    listed = server.client.get_json("/global_subgraphs")
    assert any(entry["name"] == "Find and steer" for entry in listed.values())


def test_it_steers(comfy):
    comfy.page.evaluate(USE, json.loads(BLUEPRINT.read_text(encoding="utf-8")))
    comfy.page.wait_for_timeout(1500)
    comfy.page.evaluate(WIRE)
    comfy.page.wait_for_timeout(500)
    names = comfy.page.evaluate(
        "() => app.graph.nodes.find((n) => n.subgraph).inputs.map((slot) => slot.label ?? slot.name)"
    )
    assert names[:5] == ["model", "sae", "wanted", "latent_image", "instead of"]
    picture = comfy.run().reshape(-1, 3).astype(int)
    blue = (picture[:, 2] > picture[:, 0] + 80).mean()
    red = (picture[:, 0] > picture[:, 2] + 80).mean()
    assert blue > 0.05
    assert red < 0.01
