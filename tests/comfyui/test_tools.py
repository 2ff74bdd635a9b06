"""Sliders, names, ranges and recipes over the HTTP API: no browser, no JavaScript."""

import json

import pytest
import torch

from comfy_client import PromptFailed
from lab.judge.reader import read_pictures
from sae.demo.shipped_weights import TEXT_SAE, load_sae
from sae.dictionary.fingerprint import fingerprint
from sae.drawing.sheet import GAP, HEAD, SIDE
from workflows import by_type, compared, pictures_of, read_workflow, to_prompt, workflow_files

FILES = {path.stem: path for path in workflow_files()}
RECIPE = "blue for red, of the sheet"  # no other test saves one of this name


def node_of(prompt, kind):
    return next(number for number, node in prompt.items() if node["class_type"] == kind)


def colours_of(client, entry, workflow):
    """Before and after."""
    return [[picture.colour for picture in read_pictures(side)] for side in compared(client, entry, workflow)]


def test_the_sliders_steer_without_a_browser(client):
    workflow = read_workflow(FILES["Shapes - sliders for features"])
    prompt = to_prompt(workflow, client.object_info())
    mixer = by_type(prompt, "FeatureMixer")["inputs"]
    rows = json.loads(mixer["mix"])["rows"]
    assert len(rows) == 8
    entry = client.run(prompt)
    assert colours_of(client, entry, workflow) == [["red"] * 4, ["blue"] * 4]
    [table] = entry["outputs"][node_of(prompt, "TopActivatingFeatures")]["sae_steering"]
    assert [row["feature"] for row in table["rows"]] == [row["feature"] for row in rows]
    reports = client.get_json(f"/sae_steering/reports?prompt_id={entry['prompt'][1]}")["reports"]
    report = reports[node_of(prompt, "FluxActivationSteer")]
    assert report["text"].startswith("Steered 8 steps")
    assert len(report["curve"]) == 8
    mixer["mix"] = json.dumps({"rows": [{**row, "on": False} for row in rows]})
    entry = client.run(prompt)
    assert colours_of(client, entry, workflow) == [["red"] * 4] * 2
    mixer["mix"] = '{"rows": [{"feature": "<img>"}]}'
    with pytest.raises(PromptFailed, match=r"mix: row 1 names feature '<img>'"):
        client.run(prompt)


def test_names_and_ranges(client, server):
    prompt = to_prompt(read_workflow(FILES["Shapes - names and ranges"]), client.object_info())
    mark = fingerprint(load_sae(TEXT_SAE))
    before = methods(client, mark)
    entry = client.run(prompt, timeout=900)
    told = {kind: entry["outputs"][node_of(prompt, kind)]["text"] for kind in ("LabelFeatures", "CalibrateStrength")}
    assert "of 256 features named" in told["LabelFeatures"][0]
    assert "too much  (add)" in told["CalibrateStrength"][0]
    assert methods(client, mark) == [known | {"add"} for known in before]
    kept = server.place.base / "user" / "default" / "sae_steering" / "labels"
    files = {path.name for path in kept.iterdir() if path.suffix != ".lock"}
    assert files >= {f"{mark}.json", f"{mark}.calibration.json"}


def methods(client, mark):
    """Of two features, the methods that have a range."""
    found = client.get_json(f"/sae_steering/features?fingerprint={mark}&index=65,73")["features"]
    return [{known["method"] for known in row.get("calibrations", [])} for row in found]


def test_sheet_and_recipe(client, server):
    prompt = to_prompt(read_workflow(FILES["Shapes - sheet and recipe"]), client.object_info())
    by_type(prompt, "SaveRecipe")["inputs"]["name"] = RECIPE
    entry = client.run(prompt)
    recipe = json.loads((server.place.output / "sae" / "recipes" / f"{RECIPE}.json").read_text(encoding="utf-8"))
    assert (recipe["method"], recipe["strength"], recipe["note"]) == ("swap", 1.0, "Blue in place of red.")
    [concept] = [entry["outputs"][number]["sae_steering"] for number in [node_of(prompt, "ConceptSteer")]]
    for table, key in zip(concept, ("features", "replaces"), strict=True):
        assert [row["feature"] for row in recipe[key]] == [row["feature"] for row in table["rows"]]
        assert len(recipe[key]) == 4
    assert recipe["sae"]["fingerprint"] == fingerprint(load_sae(TEXT_SAE))
    check_sheet(pictures_of(client, entry, node_of(prompt, "SteeringSweep"))[0])
    check_recipe_by_name(client, server, prompt)


def check_sheet(sheet):
    """Rows: four features together, then each alone; columns: unsteered, 0.5, 1, 1.5, random direction."""
    cells = sheet[:, HEAD:, SIDE:].unfold(1, 128, 128 + GAP).unfold(2, 128, 128 + GAP).permute(1, 2, 0, 3, 4)
    assert cells.shape[:2] == (5, 5)
    seen = [[picture.colour for picture in read_pictures(row)] for row in cells]
    assert [row[0] for row in seen] == ["red"] * 5
    assert seen[0][2:4] == ["blue"] * 2 and "blue" not in [row[4] for row in seen]
    assert [row[2] for row in seen[1:]].count("blue") < 4  # at 1 not every feature alone stands for all of them


def check_recipe_by_name(client, server, prompt):
    """The saved recipe is in LoadRecipe's list, and draws what the model draws that it was saved from."""
    listed = client.object_info("LoadRecipe")["input"]["optional"]["saved"][1]["options"]
    assert listed[0] == "none" and f"{RECIPE}.json" in listed
    save = by_type(prompt, "SaveRecipe")["inputs"]
    [loader, text, concept] = (node_of(prompt, kind) for kind in ("LoadShapesDemo", "ShapesPrompt", "ConceptSteer"))
    graph = {number: prompt[number] for number in (loader, text, concept)}
    latent = prompt[concept]["inputs"]["latent_image"]
    graph["50"] = {
        "class_type": "LoadRecipe",
        "inputs": {
            "model": [loader, 0],
            "recipe": "",
            "strength": 1.0,
            "sae": [loader, 2],
            "saved": f"{RECIPE}.json",
        },
    }
    for number, model in (("60", [concept, 0]), ("70", ["50", 0])):
        graph[number] = {
            "class_type": "KSampler",
            "inputs": {
                "model": model, "seed": 5, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
                "positive": [text, 0], "negative": [text, 0], "latent_image": latent, "denoise": 1.0,
            },
        }  # fmt: skip
        vae = {"class_type": "VAEDecode", "inputs": {"samples": [number, 0], "vae": [loader, 1]}}
        graph |= {
            f"{number}1": vae,
            f"{number}2": {"class_type": "PreviewImage", "inputs": {"images": [f"{number}1", 0]}},
        }
    graph["80"] = {"class_type": "SaveRecipe", "inputs": {**save, "model": ["50", 0], "note": "loaded"}}
    entry = client.run(graph)
    one, other = (pictures_of(client, entry, number) for number in ("602", "702"))
    assert torch.equal(one, other) and read_pictures(one)[0].colour == "blue"
    assert entry["outputs"]["80"]["text"][0].startswith(f"Wrote output/sae/recipes/{RECIPE}-2.json")
    folder = server.place.output / "sae" / "recipes"
    assert sorted(path.name for path in folder.glob(f"{RECIPE}*")) == [f"{RECIPE}-2.json", f"{RECIPE}.json"]
    graph["90"] = {"class_type": "SaveRecipe", "inputs": {**save, "sae": [loader, 2], "features": [concept, 1]}}
    with pytest.raises(PromptFailed, match="model: it brings its own set-up, but sae and features came too") as failed:
        client.run(graph)
    assert failed.value.node_type == "SaveRecipe"


def test_a_mask_of_other_proportions_is_told_by_its_node(client):
    """At KSampler, which knows the picture's size, with the name of the node that has the mask."""
    prompt = to_prompt(read_workflow(FILES["Paint a feature"]), client.object_info())
    steer = node_of(prompt, "ConceptSteer")
    prompt["91"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 128, "height": 64}}
    prompt[steer]["inputs"]["mask"] = ["91", 0]
    with pytest.raises(PromptFailed) as failed:
        client.run(prompt)
    assert failed.value.node_type == "KSampler"
    sentence = "mask: it is 128×64, but the picture is 128×128 pixels; use a mask with the picture's proportions."
    assert f"Concept Steer (node {steer}): {sentence}" in failed.value.message
