"""The example workflows in a running ComfyUI, and steering over its HTTP API."""

import pytest
import torch
from PIL import Image

from comfy_client import PromptFailed, PromptRefused
from lab.judge.reader import read_pictures
from sae.hosts.kandinsky import INDEX
from workflows import by_type, pictures_of, read_workflow, to_prompt, workflow_files

FILES = {path.stem: path for path in workflow_files()}
SHAPES = FILES["Shapes - find and steer"]
EMBEDDINGS = FILES["Shapes embeddings - find and steer"]
FLUX = FILES["FLUX.1 - find and steer"]
NEED_FILES = {  # workflow -> the kinds of model that it asks for
    "FLUX.1 - find and steer": {"diffusion_models", "text_encoders", "vae", "sae"},
    "Kandinsky 2.2 - find and steer": {"sae"},
    "ReVision - steer the picture prompt": {"checkpoints", "clip_vision", "sae"},
    "Redux - steer the picture prompt": {"diffusion_models", "text_encoders", "vae", "clip_vision", "style_models"},
}


def node_titled(workflow, title):
    return str(next(node["id"] for node in workflow["nodes"] if node.get("title", "").startswith(title)))


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


def test_the_embedding_workflow_finds_steers_and_shows(client):
    workflow = read_workflow(EMBEDDINGS)
    prompt = to_prompt(workflow, client.object_info())
    shown = {title: node_titled(workflow, title) for title in ("Unsteered", "Steered", "The features found")}
    drawn = next(node for node in prompt.values() if node["inputs"].get("text") == "red circle left big white")
    before, after = [], []
    for seed in (42, 43, 44):  # of the embedding
        drawn["inputs"]["seed"] = seed
        entry = client.run(prompt)
        before += read_pictures(pictures_of(client, entry, shown["Unsteered"]))
        after += read_pictures(pictures_of(client, entry, shown["Steered"]))
    assert [picture.colour for picture in before] == ["red"] * 3
    assert [picture.colour for picture in after].count("blue") >= 2
    for slot in ("place", "background"):
        assert [getattr(picture, slot) for picture in after] == [getattr(picture, slot) for picture in before]
    report = entry["outputs"][next(i for i, node in prompt.items() if node["class_type"] == "ClipEmbedSteer")]["text"]
    assert "‖Δ‖/‖x‖" in report[0] and report[1] == "image_embeds 64: what it was trained on."
    assert "difference" in entry["outputs"][shown["The features found"]]["text"][0]
    by_type(prompt, "ClipEmbedSteer")["inputs"]["strength"] = 0.0
    entry = client.run(prompt)
    plain, neutral = (pictures_of(client, entry, shown[title]) for title in ("Unsteered", "Steered"))
    assert torch.equal(plain, neutral)


@pytest.mark.parametrize("name", NEED_FILES)
def test_with_its_files_in_place_a_workflow_validates(client, server, name):
    """Every input is accepted; the files here are empty, so loading them fails."""
    workflow = read_workflow(FILES[name])
    models = [model for node in workflow["nodes"] for model in node["properties"].get("models", [])]
    assert {model["directory"] for model in models} == NEED_FILES[name]
    prompt = to_prompt(workflow, client.object_info())
    wanted = {server.place.models / model["directory"] / model["name"] for model in models}
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "LoadSAE":
            wanted.add(server.place.models / "sae" / inputs["sae_name"])
        if node["class_type"] == "LoadImage":
            wanted.add(server.place.base / "input" / inputs["image"])
        if node["class_type"] == "LoadKandinsky22":
            wanted |= {server.place.models / "diffusers" / inputs[half] / INDEX for half in ("prior", "decoder")}
    for path in wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    try:
        with pytest.raises(PromptFailed):
            client.run(prompt)
    finally:
        for path in wanted:
            path.unlink()


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
