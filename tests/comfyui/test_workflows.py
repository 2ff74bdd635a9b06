"""The example workflows in a running ComfyUI, and steering over its HTTP API."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from comfy_client import PromptFailed, PromptRefused
from lab.judge.reader import read_pictures
from sae.hosts.kandinsky import INDEX
from workflows import by_type, compared, read_workflow, to_prompt, workflow_files

FILES = {path.stem: path for path in workflow_files()}
SHAPES = FILES["Shapes - find and steer"]
EMBEDDINGS = FILES["Shapes embeddings - find and steer"]
FLUX = FILES["FLUX.1 - find and steer"]
NEED_FILES = {  # workflow -> the kinds of model that it asks for
    "FLUX.1 - find and steer": {"diffusion_models", "text_encoders", "vae", "sae"},
    "Kandinsky 2.2 - find and steer": {"sae"},
    "SDXL-Turbo - find and steer": {"checkpoints", "sae"},
    "SDXL - steer without an SAE": {"checkpoints"},
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
    plain, steered = compared(client, entry, workflow)
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
    plain, steered = compared(client, entry, workflow)
    assert torch.equal(steered, plain)
    by_type(prompt, "FluxActivationSteer")["inputs"]["strength"] = 1.0
    by_type(prompt, "KSampler")["inputs"]["seed"] = 42
    again = client.run(prompt)
    assert not torch.equal(compared(client, again, workflow)[1], plain)
    client.free()
    for node in prompt.values():  # steering disconnected: a run after a steered run
        if node["class_type"] == "KSampler":
            node["inputs"]["model"] = by_type(prompt, "TopActivatingFeatures")["inputs"]["model"]
    last = client.run(prompt)
    assert torch.equal(compared(client, last, workflow)[1], plain)


def test_the_embedding_workflow_finds_steers_and_shows(client):
    workflow = read_workflow(EMBEDDINGS)
    prompt = to_prompt(workflow, client.object_info())
    drawn = next(node for node in prompt.values() if node["inputs"].get("text") == "red circle left big white")
    before, after = [], []
    for seed in (42, 43, 44):  # of the embedding
        drawn["inputs"]["seed"] = seed
        entry = client.run(prompt)
        plain, steered = compared(client, entry, workflow)
        before += read_pictures(plain)
        after += read_pictures(steered)
    assert [picture.colour for picture in before] == ["red"] * 3
    assert [picture.colour for picture in after].count("blue") >= 2
    for slot in ("place", "background"):
        assert [getattr(picture, slot) for picture in after] == [getattr(picture, slot) for picture in before]
    report = entry["outputs"][next(i for i, node in prompt.items() if node["class_type"] == "ClipEmbedSteer")]["text"]
    assert "‖Δ‖/‖x‖" in report[0] and report[1] == "image_embeds 64: what it was trained on."
    assert "difference" in entry["outputs"][node_titled(workflow, "Features of blue")]["text"][0]
    by_type(prompt, "ClipEmbedSteer")["inputs"]["strength"] = 0.0
    entry = client.run(prompt)
    plain, neutral = compared(client, entry, workflow)
    assert torch.equal(plain, neutral)


def test_start_here_turns_what_the_prompt_says(client):
    workflow = read_workflow(FILES["Start here"])
    prompt = to_prompt(workflow, client.object_info())
    entry = client.run(prompt)
    before, after = map(read_pictures, compared(client, entry, workflow))
    check_only_red_became_blue(before, after)
    concept = by_type(prompt, "ConceptSteer")["inputs"]
    concept |= {"wanted": "purple triangle", "instead_of": "green triangle"}
    by_type(prompt, "CLIPTextEncode")["inputs"]["text"] = "green triangle top small grey"
    entry = client.run(prompt)
    before, after = map(read_pictures, compared(client, entry, workflow))
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
    contrast = next(key for key, node in prompt.items() if node["class_type"] == "ContrastDirection")
    prompt["save"] = {"class_type": "SaveDirections", "inputs": {"sae": [contrast, 0], "name": directions}}
    entry = client.run(prompt)
    before, after = map(read_pictures, compared(client, entry, workflow))
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
    assert torch.equal(*(compared(client, one, workflow)[1] for one in (entry, again)))
    steer["strength"] = 0.0
    plain = client.run(prompt)
    assert torch.equal(compared(client, plain, workflow)[1], compared(client, entry, workflow)[0])
    by_type(prompt, "ContrastDirection")["inputs"]["negative_texts"] = "red"
    with pytest.raises(PromptFailed) as failed:
        client.run(prompt)
    assert failed.value.message.startswith("negative_texts: 1 lines came for 3 in positive_texts")


def test_only_what_is_painted_is_steered(client):
    workflow = read_workflow(FILES["Paint a feature"])
    prompt = to_prompt(workflow, client.object_info())
    entry = client.run(prompt)
    plain, unpainted = compared(client, entry, workflow)
    assert torch.equal(plain, unpainted)  # nothing is painted
    steerer = next(key for key, node in prompt.items() if node["class_type"] == "ConceptSteer")
    told = entry["outputs"][steerer]["text"]
    assert told[-1] == "The mask is empty, so nothing is steered: paint on it, or leave it away."
    report = client.get_json(f"/sae_steering/reports?prompt_id={entry['prompt'][1]}")["reports"][steerer]
    assert (report["text"], report["warnings"]) == (told[-1], [])  # and not that the features hardly fire
    right = {"points": [0.75, 0.0, 0.75, 1.0], "size": 0.5}  # half of the picture
    by_type(prompt, "PaintRegion")["inputs"]["strokes"] = json.dumps({"strokes": [right]})
    entry = client.run(prompt)
    plain, steered = compared(client, entry, workflow)
    moved = (steered - plain).abs().mean((0, 1))  # (height, width)
    assert float(moved[:, 64:].mean()) > 3 * float(moved[:, :64].mean()) > 0
    by_type(prompt, "PaintRegion")["inputs"]["strokes"] = '{"strokes": [{"points": [1], "size": 0.1}]}'
    with pytest.raises(PromptFailed, match=r"^PaintRegion: ValueError: strokes: stroke 1: points must be"):
        client.run(prompt)


def test_the_demo_says_when_it_does_not_know_the_words_or_the_size(client):
    workflow = read_workflow(FILES["Start here"])
    prompt = to_prompt(workflow, client.object_info())
    concept, plain = by_type(prompt, "ConceptSteer")["inputs"], by_type(prompt, "KSampler")["inputs"]
    concept |= {"wanted": "a snowy street", "instead_of": "a summer street"}
    with pytest.raises(PromptFailed) as failed:
        client.run(prompt)
    assert failed.value.message.startswith(
        "wanted: the text encoder makes the same of 'a snowy street' as of 'a summer"
    )
    assert "such as those of this demo: red, orange" in failed.value.message
    concept |= {"wanted": "blue square", "instead_of": "red square"}
    size = by_type(prompt, "EmptyLatentImage")["inputs"]
    demo = next(key for key, node in prompt.items() if node["class_type"] == "LoadShapesDemo")

    def reported():
        entry = client.run(prompt)
        return client.get_json(f"/sae_steering/reports?prompt_id={entry['prompt'][1]}")["reports"].get(demo)

    size |= {"width": 256, "height": 192}
    [warning] = reported()["warnings"]
    assert warning.startswith("Pictures of 256×192 are drawn, but Shapes knows 128×128")
    plain["latent_image"] = concept["latent_image"] = [demo, 7]
    for node in prompt.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["latent_image"] = [demo, 7]
    assert reported()["warnings"] == []  # the warning is taken away
    plain["seed"] += 1
    assert reported() is None


def test_before_and_after_wants_as_many_pictures(client):
    def graph(before, after):
        batch = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "color": 0}}
        nodes = {str(n): {**batch, "inputs": {**batch["inputs"], "batch_size": n}} for n in {before, after}}
        compare = {"class_type": "BeforeAndAfter", "inputs": {"before": [str(before), 0], "after": [str(after), 0]}}
        return {**nodes, "9": compare}

    shown = client.run(graph(1, 3))["outputs"]["9"]
    assert [len(shown[side]) for side in ("before", "after")] == [1, 3]
    with pytest.raises(PromptFailed, match=r"after: 3 pictures came for 2 in before; give as many, or one."):
        client.run(graph(2, 3))


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
    ({"method": "add"}, "replaces: 'add' takes no features out"),
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
        before, after = map(read_pictures, compared(client, entry, workflow))
        assert [getattr(picture, slot) for picture in before] == [source] * 4
        wanted = [replace(picture, **{slot: target}) for picture in before]
        assert sum(picture == asked for picture, asked in zip(after, wanted, strict=True)) >= 3, (slot, after)
