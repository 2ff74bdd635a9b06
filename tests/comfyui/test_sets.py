"""A set of SAEs over HTTP: loaded from a folder and by SAESet, found, steered, saved as a recipe and loaded again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from comfy_client import PromptFailed
from sae.demo.shipped_weights import ATTENTION_SAE, IMAGE_SAE, TEXT_SAE, WEIGHTS
from workflows import pictures_of

FOLDER = "shapes-two-places"
NAMES = (TEXT_SAE, ATTENTION_SAE)
HOW = {"method": "swap", "strength": 1.0, "unit": "token_norm", "location": "auto", "stream": "auto"}
HOW |= {"start_percent": 0.0, "end_percent": 1.0, "apply_to": "both"}


@pytest.fixture(scope="module")
def folder(server):
    base = server.place.models / "sae" / FOLDER
    for name in NAMES:
        shutil.copytree(WEIGHTS / name, base / name)
    yield f"{FOLDER}/*"
    shutil.rmtree(base)


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def sampled(name, model):
    return {
        f"{name} latent": node(
            "KSampler", model=model, positive=["red", 0], negative=["red", 0], latent_image=["empty", 0], seed=3,
            steps=4, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        ),
        f"{name} picture": node("VAEDecode", samples=[f"{name} latent", 0], vae=["demo", 1]),
        name: node("PreviewImage", images=[f"{name} picture", 0]),
    }  # fmt: skip


def found(name, positive, baseline):
    return {
        name: node(
            "TopActivatingFeatures", model=["demo", 0], sae=["sae", 0], positive=positive, baseline=baseline,
            latent_image=["empty", 0], seed=1, steps=4, count=6, rank_by="mean", location="auto", stream="auto",
        )
    }  # fmt: skip


def prompt(sae, **how):
    red, blue = ["red", 0], ["blue", 0]
    steering = {"sae": ["sae", 0], "features": ["new", 0], "replaces": ["old", 0], **HOW, **how}
    return {
        "demo": node("LoadShapesDemo"),
        "sae": sae,
        "red": node("ShapesPrompt", text="red square left big white"),
        "blue": node("ShapesPrompt", text="blue square left big white"),
        "empty": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        **found("new", blue, red),
        **found("old", red, blue),
        "steer": node("FluxActivationSteer", model=["demo", 0], **steering),
        **sampled("plain", ["demo", 0]),
        **sampled("steered", ["steer", 0]),
    }


BY_NODE = node("SAESet", sae_1=["demo", 3], sae_2=["demo", 2], name="by node")


@pytest.fixture(scope="module")
def from_folder(folder):
    return node("LoadSAE", sae_name=folder, location="auto", stream="auto")


def pictures(client, entry, *names):
    return [pictures_of(client, entry, name) for name in names]


def test_a_folder_and_the_node_steer_alike_and_leave_nothing(client, from_folder):
    first = client.run(prompt(from_folder))
    plain, steered = pictures(client, first, "plain", "steered")
    again = client.run(prompt(BY_NODE))
    by_node = pictures_of(client, again, "steered")
    assert torch.equal(steered, by_node) and not torch.equal(steered, plain)
    table = first["outputs"]["new"]["sae_steering"][0]
    assert {row["place"] for row in table["rows"]} == {
        "transformer_blocks.0 (text)",
        "transformer_blocks.1.attn (image)",
    }
    assert "place" in first["outputs"]["new"]["text"][0].splitlines()[1]
    client.free()  # everything is computed anew: a run after a steered run
    assert torch.equal(pictures_of(client, client.run(prompt(BY_NODE)), "plain"), plain)


def test_strength_zero_is_bit_identical(client, from_folder):
    plain, steered = pictures(client, client.run(prompt(from_folder, strength=0.0)), "plain", "steered")
    assert torch.equal(plain, steered)


def test_a_recipe_of_the_set_draws_the_same_picture(client, server, from_folder):
    whole = prompt(from_folder)
    steering = {name: value for name, value in whole["steer"]["inputs"].items() if name != "model"}
    saving = {**whole, "save": node("SaveRecipe", **steering, name="two-places", note="")}
    entry = client.run(saving)
    steered, shown = pictures_of(client, entry, "steered"), entry["outputs"]["save"]["text"][0]
    text = shown[shown.index("{") :]
    assert json.loads(text)["version"] == 2
    saved = (server.place.output / "sae" / "recipes").glob("two-places*.json")
    assert text in [path.read_text(encoding="utf-8").strip() for path in saved]
    load = {**whole, "steer": node("LoadRecipe", model=["demo", 0], recipe=text, strength=1.0, sae=["sae", 0])}
    assert torch.equal(pictures_of(client, client.run(load), "steered"), steered)
    load["sae"] = node("SAESet", sae_1=["demo", 4], sae_2=["demo", 2], name="another")
    for name in ("new", "old"):
        del load[name]
    with pytest.raises(PromptFailed) as failure:
        client.run(load)
    assert "another set, which has" in failure.value.message
    assert f"{ATTENTION_SAE}/model" in failure.value.message and IMAGE_SAE not in failure.value.message


def test_one_node_is_a_chain_of_nodes(client):
    """One place is an attention and one the only block output, so each takes the whole strength."""
    chosen = {
        "feature": node("SAEFeature", feature=5, strength=1.0),
        "both": node("SAEFeature", feature=256 + 7, strength=1.0, features=["feature", 0]),
    }
    adding = {**HOW, "method": "add", "strength": 0.3}
    whole = prompt(BY_NODE)
    for name in ("new", "old", "steer"):
        del whole[name]
    whole |= chosen | {
        "steer": node("FluxActivationSteer", model=["demo", 0], sae=["sae", 0], features=["both", 0], **adding),
        "own": node("SAEFeature", feature=7, strength=1.0),
        "one": node("FluxActivationSteer", model=["demo", 0], sae=["demo", 2], features=["feature", 0], **adding),
        "two": node("FluxActivationSteer", model=["one", 0], sae=["demo", 3], features=["own", 0], **adding),
        **sampled("chained", ["two", 0]),
    }
    entry = client.run(whole)
    plain, steered, chained = pictures(client, entry, "plain", "steered", "chained")
    assert torch.equal(steered, chained) and not torch.equal(steered, plain)


def test_the_folder_is_listed(client, folder):
    [names, *_] = client.object_info("LoadSAE")["input"]["required"]["sae_name"][1:] or [{}]
    assert folder in names["options"]
