"""The example workflows in a running ComfyUI, and steering over its HTTP API."""

import shutil
from dataclasses import replace

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
}


def node_titled(workflow, title):
    return str(next(node["id"] for node in workflow["nodes"] if node.get("title", "").startswith(title)))


def check_only_red_became_blue(before, after):
    assert [picture.colour for picture in before] == ["red"] * 4
    assert [picture.colour for picture in after] == ["blue"] * 4
    for slot in ("shape", "place", "size", "background"):
        assert [getattr(picture, slot) for picture in after] == [getattr(picture, slot) for picture in before]


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
    table = entry["outputs"][node_titled(workflow, "Features of blue")]["text"][0]
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
    shown = {title: node_titled(workflow, title) for title in ("Unsteered", "Steered", "Features of blue")}
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
    assert "difference" in entry["outputs"][shown["Features of blue"]]["text"][0]
    by_type(prompt, "ClipEmbedSteer")["inputs"]["strength"] = 0.0
    entry = client.run(prompt)
    plain, neutral = (pictures_of(client, entry, shown[title]) for title in ("Unsteered", "Steered"))
    assert torch.equal(plain, neutral)


def test_start_here_turns_what_the_prompt_says(client):
    workflow = read_workflow(FILES["Start here"])
    prompt = to_prompt(workflow, client.object_info())
    shown = [node_titled(workflow, title) for title in ("Before", "After")]
    entry = client.run(prompt)
    before, after = (read_pictures(pictures_of(client, entry, node)) for node in shown)
    check_only_red_became_blue(before, after)
    concept = by_type(prompt, "ConceptSteer")["inputs"]
    concept |= {"wanted": "purple triangle", "instead_of": "green triangle"}
    by_type(prompt, "CLIPTextEncode")["inputs"]["text"] = "green triangle top small grey"
    entry = client.run(prompt)
    before, after = (read_pictures(pictures_of(client, entry, node)) for node in shown)
    assert [picture.colour for picture in before] == ["green"] * 4
    assert [picture.colour for picture in after].count("purple") >= 3


@pytest.fixture
def directions(server):
    """A folder's name for directions, gone when the test is through."""
    yield "blue for red"
    shutil.rmtree(server.place.output / "sae" / "blue for red")


def test_without_an_sae_red_becomes_blue_and_zero_changes_nothing(client, directions):
    workflow = read_workflow(FILES["Shapes - steer without an SAE"])
    prompt = to_prompt(workflow, client.object_info())
    shown = [node_titled(workflow, title) for title in ("Before", "After")]
    contrast = next(key for key, node in prompt.items() if node["class_type"] == "ContrastDirection")
    prompt["save"] = {"class_type": "SaveDirections", "inputs": {"sae": [contrast, 0], "name": directions}}
    entry = client.run(prompt)
    before, after = (read_pictures(pictures_of(client, entry, node)) for node in shown)
    check_only_red_became_blue(before, after)
    table = entry["outputs"][contrast]["text"][0]
    assert "9 runs of each side" in table and "transformer_blocks.0.input (text)" in table
    name = f"{directions}/transformer_blocks.0.input-text/model.safetensors"
    assert name in client.object_info("LoadSAE")["input"]["required"]["sae_name"][1]["options"]
    steer = by_type(prompt, "FluxActivationSteer")["inputs"]
    del prompt["save"]
    prompt["load"] = {
        "class_type": "LoadSAE", "inputs": {"sae_name": name, "location": "auto", "stream": "auto"},
    }  # fmt: skip
    steer["sae"] = ["load", 0]
    again = client.run(prompt)
    assert torch.equal(*(pictures_of(client, one, shown[1]) for one in (entry, again)))
    steer["strength"] = 0.0
    plain = client.run(prompt)
    assert torch.equal(pictures_of(client, plain, shown[1]), pictures_of(client, entry, shown[0]))
    by_type(prompt, "ContrastDirection")["inputs"]["negative_texts"] = "red"
    with pytest.raises(PromptFailed) as failed:
        client.run(prompt)
    assert failed.value.message.startswith("negative_texts: 1 lines came for 3 in positive_texts")


def test_only_what_is_painted_is_steered(client, server):
    workflow = read_workflow(FILES["Paint a feature"])
    prompt = to_prompt(workflow, client.object_info())
    decode = [str(node["id"]) for node in workflow["nodes"] if node["type"] == "VAEDecode"]
    shown = node_titled(workflow, "Steered where")
    prompt["90"] = {"class_type": "PreviewImage", "inputs": {"images": [decode[0], 0]}}
    entry = client.run(prompt)
    plain, unpainted = (pictures_of(client, entry, node) for node in ("90", shown))
    assert torch.equal(plain, unpainted)  # nothing is painted
    painted = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    painted.paste((255, 255, 255, 255), (64, 0, 128, 128))
    (server.place.base / "input").mkdir(exist_ok=True)
    painted.save(server.place.base / "input" / "painted.png")
    by_type(prompt, "Painter")["inputs"]["mask"] = "painted.png"
    entry = client.run(prompt)
    moved = (pictures_of(client, entry, shown) - plain).abs().mean((0, 1))  # (height, width)
    assert float(moved[:, 64:].mean()) > 3 * float(moved[:, :64].mean()) > 0


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
    wanted = {path for path in wanted if not path.exists()}  # what is there already is another test's
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


@pytest.mark.parametrize("with_sae", [True, False], ids=["with the SAE", "without one"])
def test_start_here_changes_every_kind_of_word_by_two_words(client, with_sae):
    """Its defaults, and nothing but one word for another; all else stays."""
    workflow = read_workflow(FILES["Start here"])
    prompt = to_prompt(workflow, client.object_info())
    shown = [node_titled(workflow, title) for title in ("Before", "After")]
    concept = by_type(prompt, "ConceptSteer")["inputs"]
    if not with_sae:
        del concept["sae"]
    for slot, source, target in (
        ("shape", "circle", "square"), ("place", "left", "right"), ("size", "small", "big"), ("colour", "red", "blue"),
        ("background", "black", "grey"),
    ):  # fmt: skip
        concept |= {"wanted": target, "instead_of": source}
        by_type(prompt, "CLIPTextEncode")["inputs"]["text"] = "red circle left small black"
        entry = client.run(prompt)
        before, after = (read_pictures(pictures_of(client, entry, node)) for node in shown)
        assert [getattr(picture, slot) for picture in before] == [source] * 4
        wanted = [replace(picture, **{slot: target}) for picture in before]
        assert sum(picture == asked for picture, asked in zip(after, wanted, strict=True)) >= 3, (slot, after)
