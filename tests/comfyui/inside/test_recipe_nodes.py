"""SaveRecipe and LoadRecipe: a loaded recipe draws the very picture of the nodes that it was saved from."""

from __future__ import annotations

import json

import pytest
import torch

from sae_steering_pack.nodes.shared.feature_names import label_store
from sae_steering_pack.nodes.shared.model_folder import output_folder
from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.naming.labels import Label
from sae_steering_pack.sae.places.site import parse_location
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import make_sae, run_node, sample

PLACE = {"location": "transformer_blocks.0-1", "stream": "image"}
HOW = {"method": "add", "strength": 0.4, "unit": "token_norm", "start_percent": 0.0, "end_percent": 0.7}


@pytest.fixture
def sae():
    return make_sae(name="cc3m-transformer_blocks.18-1/model")


@pytest.fixture
def save(node_classes, sae):
    def run(**more):
        inputs = {"sae": sae, "features": FeatureList([Edit(3, 0.5), Edit(7, -1.0)]), **HOW, **PLACE}
        inputs |= {"apply_to": "both", "name": "winter", "note": "snow"}
        return run_node(node_classes["SaveRecipe"], **{**inputs, **more})

    return run


@pytest.fixture
def load(node_classes, model):
    def run(text, **more):
        return run_node(node_classes["LoadRecipe"], model=model, recipe=text, strength=1.0, **more)

    return run


def test_a_loaded_recipe_draws_the_same_picture(node_classes, model, sae, save, load):
    text = save().result[0]
    edits = FeatureList([Edit(3, 0.5), Edit(7, -1.0)])
    direct = run_node(
        node_classes["FluxActivationSteer"], model=model, sae=sae, features=edits, **HOW, **PLACE, apply_to="both"
    ).result[0]
    loaded, features, note = load(text, sae=sae).result
    picture = sample(direct, steps=3)
    assert torch.equal(sample(loaded, steps=3), picture)
    assert not torch.equal(sample(model, steps=3), picture)
    assert features == edits and note == "snow"
    assert torch.equal(
        sample(load(text, sae=sae, mask=torch.zeros(1, 64, 64)).result[0], steps=3), sample(model, steps=3)
    )


def test_the_file_is_what_the_node_gives_and_names_go_with_it(sae, save):
    store, digits = label_store(), fingerprint(sae)
    store.update(digits, {7: Label("snow"), 8: Label("not in it")})
    try:
        text = save().result[0]
    finally:
        store.path(digits).unlink()
    path = output_folder() / "recipes" / "winter.json"
    assert path.read_text(encoding="utf-8") == text + "\n"
    content = json.loads(text)
    assert [row.get("name") for row in content["features"]] == [None, "snow"]
    assert content["sae"] == {
        "fingerprint": digits,
        "name": sae.name,
        "source": "https://huggingface.co/viccpoes/cc3m-transformer_blocks.18-1/resolve/main/model.safetensors",
    }
    assert (content["location"], content["stream"]) == ("transformer_blocks.0-1", "image")


def test_the_saes_own_place_is_written_out(sae, save):
    own = sae.at(parse_location("single_transformer_blocks.0", "joint"))
    content = json.loads(save(sae=own, location="auto", stream="auto").result[0])
    assert (content["location"], content["stream"]) == ("single_transformer_blocks.0", "joint")


def test_another_sae_and_none_are_told(sae, save, load):
    text = save().result[0]
    ours, other = fingerprint(sae), make_sae(k=4)
    with pytest.raises(ValueError, match=rf"{ours}, but the one connected is {fingerprint(other)}"):
        load(text, sae=other)
    with pytest.raises(
        ValueError, match=r"sae: this recipe needs cc3m.*to be had from https://huggingface\.co/viccpoes"
    ):
        load(text)


@pytest.mark.parametrize("name", ["", "  ", "../x", "a/b", "a\\b", "C:x", ".hidden", "x\ny"])
def test_names_that_lead_elsewhere_are_refused(save, name):
    with pytest.raises(ValueError, match=r"name: .* is no name of a file"):
        save(name=name)


def test_what_cannot_steer_is_not_saved(save):
    with pytest.raises(ValueError, match="unit: 'max' needs the activation of feature 3"):
        save(unit="max")
    with pytest.raises(ValueError, match=r"start_percent: 0\.9 lies after"):
        save(start_percent=0.9)
