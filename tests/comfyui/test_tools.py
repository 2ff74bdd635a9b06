"""Sliders, names, ranges and recipes over the HTTP API: no browser, no JavaScript."""

import json

import pytest

from comfy_client import PromptFailed
from lab.judge.reader import read_pictures
from workflows import by_type, pictures_of, read_workflow, to_prompt, workflow_files

FILES = {path.stem: path for path in workflow_files()}


def node_of(prompt, kind):
    return next(number for number, node in prompt.items() if node["class_type"] == kind)


def test_the_sliders_steer_without_a_browser(client):
    prompt = to_prompt(read_workflow(FILES["Shapes - sliders for features"]), client.object_info())
    mixer = by_type(prompt, "FeatureMixer")["inputs"]
    rows = json.loads(mixer["mix"])["rows"]
    assert len(rows) == 8
    entry = client.run(prompt)
    shown = node_of(prompt, "PreviewImage")
    assert [picture.colour for picture in read_pictures(pictures_of(client, entry, shown))] == ["blue"] * 4
    [table] = entry["outputs"][node_of(prompt, "TopActivatingFeatures")]["sae_steering"]
    assert [row["feature"] for row in table["rows"]] == [row["feature"] for row in rows]
    reports = client.get_json(f"/sae_steering/reports?prompt_id={entry['prompt'][1]}")["reports"]
    report = reports[node_of(prompt, "FluxActivationSteer")]
    assert report["text"].startswith("Steered 8 steps")
    assert len(report["curve"]) == 8
    mixer["mix"] = json.dumps({"rows": [{**row, "on": False} for row in rows]})
    entry = client.run(prompt)
    assert [picture.colour for picture in read_pictures(pictures_of(client, entry, shown))] == ["red"] * 4
    mixer["mix"] = '{"rows": [{"feature": "<img>"}]}'
    with pytest.raises(PromptFailed, match=r"mix: row 1 names feature '<img>'"):
        client.run(prompt)


def test_names_ranges_sheet_and_recipe(client, server):
    prompt = to_prompt(read_workflow(FILES["Shapes - names, ranges, sheets, recipes"]), client.object_info())
    entry = client.run(prompt)
    told = {kind: entry["outputs"][node_of(prompt, kind)]["text"] for kind in ("LabelFeatures", "CalibrateStrength")}
    assert "of 256 features named" in told["LabelFeatures"][0]
    assert "too much  (add)" in told["CalibrateStrength"][0]
    recipe = json.loads((server.place.output / "sae" / "recipes" / "shapes-example.json").read_text(encoding="utf-8"))
    assert [row["unit"] for row in recipe["features"]] == ["calibrated"] * 2
    mark = recipe["sae"]["fingerprint"]
    wanted = ",".join(str(row["feature"]) for row in recipe["features"])
    found = client.get_json(f"/sae_steering/features?fingerprint={mark}&index={wanted}")["features"]
    assert [row["calibrations"] for row in found] == [[row["calibration"]] for row in recipe["features"]]
    kept = server.place.base / "user" / "default" / "sae_steering" / "labels"
    files = sorted(path.name for path in kept.iterdir() if path.suffix != ".lock")
    assert files == sorted([f"{mark}.json", f"{mark}.calibration.json"])
