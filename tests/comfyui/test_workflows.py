"""The example workflows in a running ComfyUI, and steering over its HTTP API."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from comfy_client import PromptFailed, PromptRefused
from sae.demo.reader import read_pictures
from workflows import read_workflow, to_prompt, workflow_files

SHAPES = next(path for path in workflow_files() if "Shapes" in path.name)
FLUX = next(path for path in workflow_files() if "FLUX" in path.name)


def pictures_of(client, entry, node):
    """(batch, 3, height, width) in 0..1 of a node's images."""
    found = [Image.open(io.BytesIO(client.view(image))).convert("RGB") for image in entry["outputs"][node]["images"]]
    return torch.stack([torch.from_numpy(np.asarray(picture) / 255).movedim(-1, 0).float() for picture in found])


def node_titled(workflow, title):
    return str(next(node["id"] for node in workflow["nodes"] if node.get("title", "").startswith(title)))


def by_type(prompt, kind):
    return next(node for node in prompt.values() if node["class_type"] == kind)


@pytest.fixture
def shapes(client):
    workflow = read_workflow(SHAPES)
    return workflow, to_prompt(workflow, client.object_info())


def test_the_shapes_workflow_finds_steers_and_shows(client, shapes):
    workflow, prompt = shapes
    entry = client.run(prompt)
    plain = pictures_of(client, entry, node_titled(workflow, "Unsteered"))
    steered = pictures_of(client, entry, node_titled(workflow, "Steered"))
    assert plain.shape == steered.shape == (4, 3, 128, 128)
    before, after = read_pictures(plain), read_pictures(steered)
    assert [picture.colour for picture in before] == ["red"] * 4
    assert [picture.colour for picture in after].count("blue") >= 3
    for slot in ("place", "background"):
        assert [getattr(picture, slot) for picture in after] == [getattr(picture, slot) for picture in before]
    table = entry["outputs"][node_titled(workflow, "The features found")]["text"][0]
    assert "difference" in table and len(table.splitlines()) > 3


def test_strength_zero_and_a_steered_neighbour_leave_the_picture_as_it_was(client, shapes):
    workflow, prompt = shapes
    by_type(prompt, "FluxActivationSteer")["inputs"]["strength"] = 0.0
    entry = client.run(prompt)
    plain = pictures_of(client, entry, node_titled(workflow, "Unsteered"))
    assert torch.equal(pictures_of(client, entry, node_titled(workflow, "Steered")), plain)
    by_type(prompt, "FluxActivationSteer")["inputs"]["strength"] = 1.0
    by_type(prompt, "KSampler")["inputs"]["seed"] = 42
    again = client.run(prompt)
    assert not torch.equal(pictures_of(client, again, node_titled(workflow, "Steered")), plain)
    client.free()
    for node in prompt.values():  # steering disconnected: a run after a steered run
        if node["class_type"] == "KSampler":
            node["inputs"]["model"] = by_type(prompt, "TopActivatingFeatures")["inputs"]["model"]
    last = client.run(prompt)
    assert torch.equal(pictures_of(client, last, node_titled(workflow, "Steered")), plain)


def test_the_flux_workflow_validates(client, server):
    """With the files it names in place, every input is accepted; the files here are empty, so loading them fails."""
    workflow = read_workflow(FLUX)
    models = [model for node in workflow["nodes"] for model in node["properties"].get("models", [])]
    assert {model["directory"] for model in models} == {"diffusion_models", "text_encoders", "vae", "sae"}
    for model in models:
        path = server.place.models / model["directory"] / model["name"]
        path.parent.mkdir(exist_ok=True)
        path.touch()
    try:
        with pytest.raises(PromptFailed):
            client.run(to_prompt(workflow, client.object_info()))
    finally:
        for model in models:
            (server.place.models / model["directory"] / model["name"]).unlink()


def test_the_flux_workflow_asks_for_missing_files(client):
    with pytest.raises(PromptRefused) as refused:
        client.run(to_prompt(read_workflow(FLUX), client.object_info()))
    assert {error["class_type"] for error in refused.value.errors.values()} >= {"UNETLoader", "LoadSAE"}


@pytest.mark.parametrize("path", workflow_files(), ids=lambda path: path.stem)
def test_each_workflow_has_its_thumbnail_and_known_nodes(client, path):
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        assert min(thumbnail.size) >= 200
    known = client.object_info()
    kinds = {node["type"] for node in read_workflow(path)["nodes"]} - {"MarkdownNote"}
    modules = {known[kind]["python_module"].split(".")[0] for kind in kinds}
    assert modules <= {"nodes", "comfy_extras", "custom_nodes"}


WRONG = [
    ({"start_percent": 0.8, "end_percent": 0.2}, "start_percent: 0.8 lies after end_percent 0.2"),
    ({"location": "transformer_blocks.9"}, "location: transformer_blocks.9 names block 9"),
    ({"location": "somewhere"}, "location: 'somewhere' is not a place in FLUX"),
    ({"stream": "joint"}, "stream: "),
    ({"method": "add"}, "replaces: only 'swap' takes features out"),
]


@pytest.mark.parametrize(("inputs", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_bad_input_is_told_in_one_sentence(client, shapes, inputs, message):
    _, prompt = shapes
    by_type(prompt, "FluxActivationSteer")["inputs"] |= inputs
    with pytest.raises(PromptFailed) as failed:
        client.run(prompt)
    assert failed.value.node_type == "FluxActivationSteer"
    assert message in failed.value.message and failed.value.message.count("\n") == 0


def test_an_unknown_word_is_told_with_the_known_ones(client, shapes):
    _, prompt = shapes
    by_type(prompt, "ShapesPrompt")["inputs"]["text"] = "a pink square"
    with pytest.raises(PromptFailed, match=r"does not know the word 'pink'; it knows colour: red, orange"):
        client.run(prompt)
