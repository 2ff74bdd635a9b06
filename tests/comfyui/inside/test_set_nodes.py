"""Sets of SAEs in the nodes: loaded, found, steered, named, saved; one node does what a chain of nodes does."""

import json

import pytest
import torch

from plain_hooks import hooked
from sae_steering_pack.nodes.browser.queries import FeatureQueries
from sae_steering_pack.nodes.browser.routes import rename
from sae_steering_pack.nodes.browser.sae_sources import SaeSources
from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.dictionary.sae_set import SaeSet, members_at
from sae_steering_pack.sae.drawing.sheet import HEAD, SIDE
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks, output_folder
from sae_steering_pack.sae.known.labels import Label
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from sae_steering_pack.sae.steering.set_up import Wanted
from tiny_flux import D_SAE, STEER_INPUTS, conditioning, relative_difference, run_node, sample, sample_diffusers
from tiny_sets import PLACES, one, tensors

STEERED = "sae_steering_pack.nodes.steer.steered_run.show_on_node"

STEPS, SEED = 4, 11  # the sigmas of 4 steps are exact in ComfyUI


@pytest.fixture
def saes():
    return [one(seed, place) for seed, place in enumerate(PLACES)]


@pytest.fixture
def sae(node_classes, saes):
    """By the node: the third, and a set of the other two."""
    node = node_classes["SAESet"]
    inner = run_node(node, sae_1=saes[1], sae_2=saes[0], name="inner").result[0]
    return run_node(node, sae_1=saes[2], sae_2=inner, name="tiny set").result[0]


@pytest.fixture
def steer_node(node_classes, model):
    def run(sae, features, **inputs):
        given = {"model": model, "sae": sae, "features": FeatureList(features)}
        return run_node(node_classes["FluxActivationSteer"], **{**given, **STEER_INPUTS, **inputs})

    return run


EDITS = [Edit(3), Edit(D_SAE + 5, 0.5), Edit(2 * D_SAE + 7, -1.0)]


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr(STEERED, lambda node_id, report: found.append(report))
    return found


def test_sets_of_sets_are_one_set_in_the_networks_order(sae, saes):
    assert isinstance(sae, SaeSet) and sae.name == "tiny set"
    assert [member.sae.name for member in sae.members] == ["tiny 0", "tiny 1", "tiny 2"]


def test_one_node_equals_a_chain_of_nodes_bit_for_bit(steer_node, model, sae, saes):
    chain = model
    for part, edit in zip(saes, (Edit(3), Edit(5, 0.5), Edit(7, -1.0)), strict=True):
        chain = steer_node(part, [edit], model=chain).result[0]
    together = steer_node(sae, EDITS).result[0]
    assert torch.equal(sample(together), sample(chain))


def test_plain_hooks_in_diffusers_draw_the_same(steer_node, model, transformer, sae):
    before = sample(model)
    steered = sample(steer_node(sae, EDITS, unit="raw", strength=3.0).result[0])

    def pushed(seed, feature, amount):
        return lambda x, read: x + 3.0 * amount * tensors(seed)["decoder"][feature]

    changes = [pushed(0, 3, 1.0), pushed(1, 5, 0.5), pushed(2, 7, -1.0)]
    with (
        hooked(transformer, *PLACES[0], changes[0]),
        hooked(transformer, *PLACES[1], changes[1]),
        hooked(transformer, *PLACES[2], changes[2]),
    ):
        expected = sample_diffusers(transformer, conditioning())
    assert relative_difference(steered, expected) < 1e-5 and relative_difference(before, expected) > 1e-3
    assert torch.equal(sample(model), before)


def test_strength_zero_is_bit_identical(steer_node, model, sae, shown):
    assert torch.equal(sample(steer_node(sae, EDITS, strength=0.0).result[0]), sample(model))
    assert shown[0]["text"].startswith("No step was steered at 3 places: transformer_blocks.0.attn (image), ")


def test_one_report_of_all_places(steer_node, sae, shown):
    node = steer_node(sae, [Edit(3), Edit(D_SAE + 5, 3.0)])
    sample(node.result[0])
    [report] = shown
    where = "2 places: transformer_blocks.0.attn (image), transformer_blocks.1.attn (image)"
    assert report["text"] == f"Steered 2 steps; mean ‖Δ‖/‖x‖ 0.6, at one token up to 0.9. At {where}."
    assert [ratio for _, ratio in report["curve"]] == pytest.approx([0.6, 0.6], rel=1e-3)
    [warning] = report["warnings"]
    assert warning.startswith("Δ reached 0.9 of the token norm at transformer_blocks.1.attn (image); above 0.5")
    assert node.ui["text"][0] == f"add feature 3 × 1, feature {D_SAE + 5} × 3 at {where}"


def test_a_location_steers_the_members_inside(steer_node, sae, saes):
    part = steer_node(sae, EDITS, location="transformer_blocks.0-1.attn")
    chain = steer_node(saes[1], [Edit(5, 0.5)], model=steer_node(saes[0], [Edit(3)]).result[0]).result[0]
    assert torch.equal(sample(part.result[0]), sample(chain))
    assert part.ui["text"][1].startswith("Left out by location and stream: the features at single_transformer_blocks.1")


@pytest.fixture
def find(node_classes, model):
    def run(sae, **inputs):
        given = {
            "model": model, "sae": sae, "positive": conditioning(2),
            "latent_image": {"samples": torch.zeros(1, 16, 8, 8)}, "seed": SEED, "steps": STEPS, "count": 4,
            "rank_by": "mean", "location": "auto", "stream": "auto", "baseline": conditioning(40),
        }  # fmt: skip
        return run_node(node_classes["TopActivatingFeatures"], **{**given, **inputs})

    return run


def test_all_places_are_read_in_one_run_a_prompt(find, model, sae, saes):
    calls = []

    def count(run, given):
        calls.append(given)
        return run(given["input"], given["timestep"], **given["c"])

    counted = model.clone()
    counted.set_model_unet_function_wrapper(count)
    output = find(sae, model=counted)
    assert len(calls) == 2 * STEPS
    alone = [(first, find(part).result[0]) for first, part in zip((0, D_SAE, 2 * D_SAE), saes, strict=True)]
    expected = [(first + edit.feature, edit.strength, edit.mean) for first, part in alone for edit in part]
    features = output.result[0]
    assert [(e.feature, e.strength, e.mean) for e in features] == expected and len(features) == 12
    assert features.owner == sae.owner
    rows = output.ui["sae_steering"][0]["rows"]
    assert [row["place"] for row in rows] == [f"{location} ({stream})" for location, stream in PLACES for _ in range(4)]
    assert all("heat" in row for row in rows) and [row["feature"] for row in rows] == [e.feature for e in features]
    title, head, *lines = output.result[1].splitlines()
    assert (
        title == "tiny set at 3 places"
        and head.split()[-1] == "place"
        and "transformer_blocks.0.attn (image)" in lines[0]
    )
    assert "place" not in find(saes[0]).ui["sae_steering"][0]["rows"][0]


def test_statistics_are_saved_for_each_member(find, sae, saes):
    told = find(sae, save_statistics=True).ui["text"]
    files = sorted(path.name for path in output_folder().glob("tiny*.stats.safetensors"))
    assert files == [f"{part.name}-{part.owner.identity[:8]}.stats.safetensors" for part in saes]
    assert sum("Statistics over" in line for line in told) == 3


def test_swap_with_what_was_found(find, steer_node, model, sae, shown):
    here, there = find(sae).result[0], find(sae, positive=conditioning(40), baseline=conditioning(2)).result[0]
    steered = steer_node(sae, here, method="swap", strength=1.0, replaces=there).result[0]
    assert not torch.equal(sample(steered), sample(model)) and shown[0]["text"].startswith("Steered 2 steps")


def test_a_recipe_of_a_set_draws_the_same_and_names_what_differs(node_classes, model, steer_node, sae, saes):
    how = {"method": "add", "strength": 0.3, "unit": "token_norm", "location": "auto", "stream": "auto"}
    how |= {"start_percent": 0.0, "end_percent": 1.0, "apply_to": "both"}
    saved = run_node(
        node_classes["SaveRecipe"], sae=sae, features=FeatureList(EDITS), **how, name="set", note=""
    ).result[0]
    content = json.loads(saved)
    assert content["version"] == 2 and content["location"] == "auto"
    assert [member["location"] for member in content["sae"]["members"]] == [location for location, _ in PLACES]

    def load(connected):
        return run_node(node_classes["LoadRecipe"], model=model, recipe=saved, strength=1.0, sae=connected).result

    loaded, features, _ = load(sae)
    assert torch.equal(sample(loaded), sample(steer_node(sae, EDITS).result[0])) and features.owner == sae.owner
    with pytest.raises(ValueError, match=r"another set, which has tiny 2 .* has none; add it\.$"):
        load(SaeSet(saes[:2], "part"))
    with pytest.raises(ValueError, match=r"needs the set tiny set of 3 SAEs, but the one SAE tiny 0 is connected"):
        load(saes[0])
    with pytest.raises(ValueError, match=r"needs the set tiny set of tiny 0 \(fingerprint .* at transformer_blocks\.0"):
        load(None)


def test_names_are_the_members(node_classes, sae, saes):
    store, marks = notebooks(), [fingerprint(part) for part in saes]
    sources = SaeSources()
    sources.seen.by_fingerprint[fingerprint(sae)] = sae
    store.of_fingerprint(marks[0]).update({3: Label("snow")})
    try:
        told = rename(sources, {"fingerprint": fingerprint(sae), "labels": {str(D_SAE + 5): "rain", "3": None}})
        assert told["labels"] == {str(D_SAE + 5): "rain"}
        assert {k: label.name for k, label in notebooks().of(sae).labels.items()} == {D_SAE + 5: "rain"}
        assert notebooks().of(saes[1]).labels[5].name == "rain" and notebooks().of(saes[0]).labels == {}
        found = FeatureQueries(sources).find({"fingerprint": fingerprint(sae), "q": "rain"})
        assert [(row["feature"], row["name"]) for row in found["features"]] == [(D_SAE + 5, "rain")]
        assert (found["count"], found["owner"]["identity"]) == (3 * D_SAE, sae.owner.identity)
    finally:
        for mark in marks:
            store.labels_path(mark).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"^fingerprint: no graph has worked with the set set-.*; run the graph once"):
        rename(SaeSources(), {"fingerprint": fingerprint(sae), "labels": {"3": "x"}})


def test_the_mixer_takes_numbers_of_a_set(node_classes, sae):
    mix = json.dumps({"rows": [{"feature": 2 * D_SAE + 7, "strength": 0.5}]})
    edits = run_node(node_classes["FeatureMixer"], sae=sae, mix=mix).result[0]
    assert list(edits) == [Edit(2 * D_SAE + 7, 0.5, unit="token_norm")] and edits.owner == sae.owner
    with pytest.raises(ValueError, match=rf"names feature {3 * D_SAE}, but the SAE has 0 to {3 * D_SAE - 1}"):
        run_node(node_classes["FeatureMixer"], sae=sae, mix=json.dumps({"rows": [{"feature": 3 * D_SAE}]}))


def test_inspection_lists_the_members(node_classes, model, sae):
    inputs = {"sae": sae, "location": "auto", "stream": "auto", "seed": 0, "steps": 1}
    text = run_node(node_classes["InspectSAE"], **inputs).result[0]
    lines = text.splitlines()
    assert lines[0].split() == ["name", "tiny", "set"] and len(lines) == 8
    assert lines[-1].startswith("features 96 to 143") and f"{PLACES[2][0]} (image): tiny 2" in lines[-1]
    with pytest.raises(ValueError, match=r"^sae: tiny set is a set of 3 SAEs, but this node takes one"):
        run_node(node_classes["InspectSAE"], **inputs, model=model, positive=conditioning())


ONE_ONLY = ["CalibrateStrength", "FeatureHeatmap", "ExportSAE", "ClipEmbedSteer", "TopEmbedFeatures"]
ONE_ONLY += ["BlendEmbedFeatures", "LabelEmbedFeatures"]


@pytest.mark.parametrize("node", ONE_ONLY)
def test_nodes_that_take_one_sae_refuse_a_set(node_classes, sae, node):
    schema = node_classes[node].GET_SCHEMA()
    inputs = {item.id: getattr(item, "default", None) for item in schema.inputs}
    with pytest.raises(
        ValueError, match=r"^sae: tiny set is a set of 3 SAEs, but this node takes one; connect that of"
    ):
        run_node(node_classes[node], **{**inputs, "sae": sae})


def test_a_model_that_lacks_a_place_is_told_with_the_member(steer_node, find, saes):
    sae = SaeSet([saes[0], one(2, ("single_transformer_blocks.7.attn", "image"))], "deep")
    for act in (lambda: steer_node(sae, [Edit(3)]), lambda: find(sae)):
        with pytest.raises(
            ValueError, match=r"^sae: tiny 2 of deep is at single_transformer_blocks\.7\.attn \(image\), but"
        ):
            act()


def test_a_random_direction_acts_at_every_place(model, sae, steer_node):
    planned = Wanted(EDITS, strength=0.3).at(sae, members_at(sae, "auto", "auto"))
    reports = []
    random = sample(host.steer(model, planned.interventions, reports.append, random_direction=7))
    assert reports[0].mean_ratio == pytest.approx(0.3 * 2.5 / 3, rel=1e-3)
    assert not torch.equal(random, sample(steer_node(sae, EDITS).result[0]))


def test_a_sweep_steers_each_feature_at_its_own_place(node_classes, saes):
    shapes = node_classes["LoadShapesDemo"].execute().result
    sae = run_node(node_classes["SAESet"], sae_1=shapes[2], sae_2=shapes[3], name="shapes").result[0]
    red = run_node(node_classes["ShapesPrompt"], text="red square left big white").result[0]
    inputs = {
        "model": shapes[0], "vae": shapes[1], "method": "add", "unit": "token_norm", "strengths": "0.3",
        "controls": False, "positive": red, "negative": red, "latent_image": {"samples": torch.zeros(1, 16, 16, 16)},
        "seed": 3, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
        "location": "auto", "stream": "auto",
    }  # fmt: skip

    def sheet(sae, *features, **more):
        given = FeatureList(Edit(feature) for feature in features)
        return run_node(node_classes["SteeringSweep"], sae=sae, features=given, **{**inputs, **more}).result[0]

    def steered(sheet, row):
        """The picture beside the unsteered one: 128 pixels wide, 12 apart."""
        return sheet[:, HEAD + 140 * row :, SIDE + 140 :][:, :128, :128]

    both = sheet(sae, 5, shapes[2].d_sae + 7)
    text, attention = sheet(shapes[2], 5), sheet(shapes[3], 7)
    together, *alone = (steered(both, row) for row in range(3))
    for found, wanted in zip(alone, (steered(text, 0), steered(attention, 0)), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1.01 / 255)  # drawn in batches of another size
    assert not any(torch.equal(one, other) for one, other in ((together, alone[0]), (together, alone[1]), alone))
    with pytest.raises(ValueError, match=r"^features: none of them is at the places asked for, .* for all of shapes"):
        sheet(sae, 5, stream="image")


def test_words_name_all_places_in_one_run(node_classes, monkeypatch):
    monkeypatch.setattr("sae_steering_pack.sae.known.notebook.shipped_labels", lambda sae: None)
    shapes = node_classes["LoadShapesDemo"].execute().result
    sae = run_node(node_classes["SAESet"], sae_1=shapes[3], sae_2=shapes[2], name="shapes").result[0]
    inputs = {
        "model": shapes[0], "clip": shapes[5], "latent_image": {"samples": torch.zeros(1, 16, 16, 16)},
        "words": "red\nblue\ncircle", "contexts": "{} square left small white", "threshold": 0.5, "seed": 0,
        "steps": 1, "location": "auto", "stream": "auto",
    }  # fmt: skip
    store, marks = notebooks(), [fingerprint(shapes[2]), fingerprint(shapes[3])]
    try:
        table = run_node(node_classes["LabelFeatures"], sae=sae, **inputs).result[0]
        together = [store.of_fingerprint(mark).labels for mark in marks]
        for mark in marks:
            store.labels_path(mark).unlink()
        for part in (shapes[2], shapes[3]):
            run_node(node_classes["LabelFeatures"], sae=part, **inputs)
        assert [store.of_fingerprint(mark).labels for mark in marks] == together and min(map(len, together)) > 10
        assert f"of {shapes[2].d_sae + shapes[3].d_sae} features named" in table.splitlines()[0]
    finally:
        for mark in marks:
            store.labels_path(mark).unlink(missing_ok=True)
