"""SaveRecipe and LoadRecipe: a loaded recipe draws the very picture of the nodes that it was saved from."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from links import link
from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks, output_folder
from sae_steering_pack.sae.known.labels import Label
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


@pytest.fixture(autouse=True)
def no_recipes():
    yield
    shutil.rmtree(output_folder() / "recipes", ignore_errors=True)


@pytest.fixture
def steer(node_classes, model, sae):
    def run(**more):
        inputs = {"model": model, "sae": sae, "features": FeatureList([Edit(3, 0.5), Edit(7, -1.0)]), **HOW, **PLACE}
        return run_node(node_classes["FluxActivationSteer"], **{**inputs, "apply_to": "cond", **more}).result[0]

    return run


def test_a_gate_is_kept_and_draws_the_same(node_classes, model, sae, steer, save_model):
    gate = {"where_active": FeatureList([Edit(12, mean=2.0, density=0.5)]), "active_above": 0.5}
    steered, plain = steer(**gate), steer()
    recipe = save_model(steered).result[0]
    kept = json.loads(recipe)
    assert (kept["version"], kept["active_above"]) == (3, 0.5)
    assert [edit["feature"] for edit in kept["where_active"]] == [12]
    loaded = run_node(node_classes["LoadRecipe"], model=model, recipe=recipe, strength=1.0, sae=sae).result[0]
    assert torch.equal(sample(loaded), sample(steered)) and not torch.equal(sample(loaded), sample(plain))


@pytest.fixture
def save_model(node_classes):
    """SaveRecipe with a MODEL; its own settings are other ones, which do not count."""

    def run(model, **more):
        other = {"method": "scale", "strength": 9.0, "unit": "raw", "location": "transformer_blocks.1"}
        other |= {"stream": "text", "start_percent": 0.9, "end_percent": 0.1, "apply_to": "uncond"}
        return run_node(node_classes["SaveRecipe"], model=model, name="winter", note="snow", **{**other, **more})

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
    store, digits = notebooks(), fingerprint(sae)
    store.of_fingerprint(digits).update({7: Label("snow"), 8: Label("not in it")})
    try:
        text = save().result[0]
    finally:
        store.labels_path(digits).unlink()
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


def files():
    return sorted(path.name for path in (output_folder() / "recipes").iterdir())


def test_a_steered_model_tells_its_whole_set_up(steer, save, save_model):
    listed = {
        "features": FeatureList([Edit(3, 0.5, 2.0, 4.0, 0.5)]),
        "replaces": FeatureList([Edit(5, 1.0, 1.5, 2.0, 0.4)]),
    }
    for how in ({}, {**listed, "method": "auto", "unit": "auto"}):
        wired = save(apply_to="cond", **how).result[0]
        assert save_model(steer(**how)).result[0] == wired
        assert save_model(steer(**how).clone()).result[0] == wired  # as behind any other node that patches a model
    assert json.loads(wired)["method"] == "swap" and len(json.loads(wired)["replaces"]) == 1


def test_concepts_and_loaded_recipes_tell_theirs(node_classes, steer, save_model, load, sae):
    model, _, text_sae, *_, clip = run_node(node_classes["LoadShapesDemo"]).result[:6]
    concept = run_node(
        node_classes["ConceptSteer"], model=model, clip=clip, sae=text_sae, wanted="blue circle", strength=0.75,
        instead_of="red circle", latent_image={"samples": torch.zeros(1, 16, 16, 16)}, count=3,
    ).result  # fmt: skip
    content = json.loads(save_model(concept[0]).result[0])
    assert (content["method"], content["strength"], content["model"]) == ("swap", 0.75, "FLUX.1")
    for key, edits in zip(("features", "replaces"), concept[1:3], strict=True):
        assert [row["feature"] for row in content[key]] == [edit.feature for edit in edits]
    text = save_model(steer()).result[0]
    assert save_model(load(text, sae=sae).result[0]).result[0] == text


def test_a_region_is_left_out_and_told(steer, save_model):
    plain, masked = (save_model(steer(mask=mask)) for mask in (None, torch.ones(1, 64, 64)))
    assert plain.result == masked.result
    assert "The region is left out" in masked.ui.value and "region" not in plain.ui.value


def test_one_set_up_is_needed_and_one_is_enough(node_classes, steer, model, sae, save, save_model):
    steered = steer()
    with pytest.raises(
        ValueError, match=r"^model: it brings its own set-up, but sae and replaces came too; disconnect"
    ):
        save_model(steered, sae=sae, replaces=FeatureList())
    with pytest.raises(ValueError, match=r"^model: nothing steers it; connect the MODEL that Activation Steer"):
        save_model(model)
    with pytest.raises(ValueError, match=r"^model: 2 nodes steer it, but a recipe holds one steering"):
        save_model(steer(model=steered))
    assert save_model(steered).result[0]  # which a node behind it did not change
    for missing in ("sae", "features"):
        with pytest.raises(ValueError, match=rf"^{missing}: nothing came; connect a steered MODEL to model, or both"):
            save(**{missing: None})


def test_another_recipe_of_a_name_is_kept_unless_it_may_go(save):
    first = save()
    assert first.ui.value.startswith("Wrote output/sae/recipes/winter.json\n")
    assert "holds this very recipe already" in save().ui.value and files() == ["winter.json"]
    second = save(note="rain").result[0]
    save(note="hail")
    assert save(note="rain").result[0] == second and files() == ["winter-2.json", "winter-3.json", "winter.json"]
    kept = {name: (output_folder() / "recipes" / name).read_text(encoding="utf-8") for name in files()}
    assert kept["winter.json"] == first.result[0] + "\n" and kept["winter-2.json"] == second + "\n"
    last = save(note="sun", overwrite=True).result[0]
    assert (output_folder() / "recipes" / "winter.json").read_text(encoding="utf-8") == last + "\n"
    assert {**kept, "winter.json": last + "\n"} == {
        name: (output_folder() / "recipes" / name).read_text(encoding="utf-8") for name in files()
    }


def test_saved_recipes_are_listed_and_loaded_by_name(node_classes, model, sae, save, load):
    node, text = node_classes["LoadRecipe"], save().result[0]
    (output_folder() / "recipes" / "old").mkdir()
    shutil.copy(output_folder() / "recipes" / "winter.json", output_folder() / "recipes" / "old" / "snow.json")
    (output_folder() / "recipes" / "notes.txt").write_text("no recipe")
    link(output_folder() / "recipes" / "out.json", output_folder().parent / "secret.json")
    (output_folder().parent / "secret.json").write_text("{}")
    saved = next(slot for slot in node.define_schema().inputs if slot.id == "saved")
    assert saved.options == ["none", "old/snow.json", "winter.json"]
    picture = sample(load(text, sae=sae).result[0], steps=2)
    for name in saved.options[1:]:
        assert torch.equal(sample(load("", sae=sae, saved=name).result[0], steps=2), picture)
    with pytest.raises(ValueError, match=r"^saved: winter\.json is chosen, but recipe has a text too"):
        load(text, sae=sae, saved="winter.json")
    for name in ("out.json", "../../secret.json", "gone.json"):
        with pytest.raises(ValueError, match=r"^saved: .* is not among the recipes in output/sae/recipes"):
            load("", sae=sae, saved=name)
    before = node.fingerprint_inputs(saved="winter.json", strength=1.0)
    assert node.fingerprint_inputs(saved="winter.json", strength=1.0) == before != node.fingerprint_inputs(saved="none")
    save(note="rain", overwrite=True)
    assert node.fingerprint_inputs(saved="winter.json") != before
    (output_folder() / "recipes" / "winter.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"^winter\.json: this recipe is a JSON list, but an object"):
        load("", sae=sae, saved="winter.json")


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
