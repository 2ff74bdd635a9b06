"""Sets of SAEs on models of all families: steered, read and tried as the SAEs one by one, and refused by name."""

import re

import pytest
import torch

import tiny_families
from family_runs import sae_for, sample, tiny
from sae_steering_pack.sae.dictionary.owner import TrainedOn
from sae_steering_pack.sae.dictionary.sae_set import SaeSet
from sae_steering_pack.sae.places.site import parse_location
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_families import CASES
from tiny_flux import D_SAE, STEER_INPUTS, run_node

STEERED = "sae_steering_pack.nodes.steer.steered_run.show_on_node"

each_family = pytest.mark.parametrize("name", CASES)


def members(name, trained_on=None):
    """The last place of the table, an MLP, and the first, a block's output; their weights are the same."""
    places = [parse_location(place.location, place.stream) for place in (CASES[name].places[-1], CASES[name].places[0])]
    return [sae_for(name, trained_on, name=f"tiny {number}", site=site) for number, site in enumerate(places)]


def set_of(saes):
    return SaeSet(saes, "tiny set")


@pytest.fixture
def steer(node_classes):
    def run(model, sae, features, **inputs):
        given = {"model": model, "sae": sae, "features": FeatureList(features)}
        return run_node(node_classes["FluxActivationSteer"], **{**given, **STEER_INPUTS, **inputs})

    return run


@pytest.fixture
def find(node_classes):
    def run(name, sae, **inputs):
        case = CASES[name]
        given = {
            "model": tiny(name), "sae": sae, "positive": tiny_families.conditioning(case), "seed": 3, "steps": 2,
            "baseline": tiny_families.conditioning(case, 5), "latent_image": {"samples": torch.zeros(case.latent)},
            "count": 3, "rank_by": "mean", "location": "auto", "stream": "auto",
        }  # fmt: skip
        return run_node(node_classes["TopActivatingFeatures"], **{**given, **inputs})

    return run


@each_family
def test_a_set_steers_as_a_chain_of_its_saes(steer, monkeypatch, name):
    reports = []
    monkeypatch.setattr(STEERED, lambda node_id, report: reports.append(report))
    model, sae = tiny(name), set_of(members(name))
    given = steer(model, sae, [Edit(3), Edit(D_SAE + 5, -0.5)])
    chain = model
    for member, edit in zip(sae.members, (Edit(3), Edit(5, -0.5)), strict=True):
        chain = steer(chain, member.sae, [edit]).result[0]
    plain, together = sample(name, model), sample(name, given.result[0])
    [report] = reports
    assert torch.equal(together, sample(name, chain)) and not torch.equal(together, plain)
    assert report["text"].startswith("Steered 1 step;") and " At 2 places: " in report["text"]
    assert not any("trained" in line for line in given.ui["text"])
    assert torch.equal(sample(name, model), plain)


@each_family
def test_a_set_is_read_as_its_saes_alone(find, name):
    sae = set_of(members(name))
    alone = [
        (member.first + edit.feature, edit.mean) for member in sae.members for edit in find(name, member.sae).result[0]
    ]
    assert alone and [(edit.feature, edit.mean) for edit in find(name, sae).result[0]] == alone


@each_family
def test_candidates_are_tried_as_of_its_saes_alone(find, name):
    how = {"rank_by": "effect", "candidates": 2}
    sae = set_of(members(name))
    alone = [
        (member.first + row["feature"], row["effect"])
        for member in sae.members
        for row in find(name, member.sae, **how).ui["sae_steering"][0]["rows"]
    ]
    together = {row["feature"]: row["effect"] for row in find(name, sae, **how).ui["sae_steering"][0]["rows"]}
    assert together == pytest.approx(dict(alone), rel=1e-3) and all(effect > 0 for effect in together.values())


@each_family
def test_a_set_of_another_family_is_refused_by_its_members_name(steer, find, name):
    other = "Chroma" if name != "Chroma" else "FLUX.1"
    sae = set_of(members(name, TrainedOn(other)))
    first = sae.members[0].sae.name
    message = f"sae: {first} was trained on {other}, but this model is {name}; use an SAE that was trained on {name}."
    with pytest.raises(ValueError, match=re.escape(message)):
        steer(tiny(name), sae, [Edit(3)])
    with pytest.raises(ValueError, match=re.escape(message)):
        find(name, sae)


def test_a_set_for_another_depth_names_the_member(steer):
    saes = members("Qwen-Image")
    saes[0] = sae_for("Qwen-Image", name="deep", site=parse_location("transformer_blocks.7", "text"))
    message = (
        "sae: deep of tiny set is at transformer_blocks.7 (text), but this Qwen-Image has transformer_blocks.0-1 "
        "(image, text) with .input, .attn, .ff, .ff_context, .update, none for the output; use a set for this model, "
        "or choose"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        steer(tiny("Qwen-Image"), set_of(saes), [Edit(3)])
    assert steer(tiny("Qwen-Image"), set_of(saes), [Edit(3)], stream="image").result[0] is not None


def test_a_synonym_is_told_as_the_family_calls_it(steer):
    """Krea 2's blocks by diffusers' name."""
    sae = sae_for("Krea 2", name="named")
    given = steer(tiny("Krea 2"), sae, [Edit(3)], location="transformer_blocks.1")
    assert given.ui["text"][0] == "add feature 3 × 1 at blocks.1 (image)"


def test_what_a_set_does_not_tell_is_said_once(steer):
    saes = members("Krea 2")
    for sae in saes:
        sae.trained_on = None
    lines = steer(tiny("Krea 2"), set_of(saes), [Edit(3), Edit(D_SAE + 5)]).ui["text"]
    line = "Nothing tells on which family of models tiny set was trained; Krea 2 is taken for granted."
    assert lines.count(line) == 1 and sum("Nothing tells" in other for other in lines) == 1
