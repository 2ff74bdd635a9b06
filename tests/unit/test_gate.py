"""A gate: any method, at the tokens where a detector's features fire, against the codes by their published formula."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from sae.dictionary.owner import Owner
from sae.dictionary.sae_set import SaeSet
from sae.places.moment import COND, Moment
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit, FeatureList
from sae.steering.intervention import Intervention
from sae.steering.methods import METHODS
from sae.steering.recipe import NeededSae, Recipe, read_recipe, write_recipe
from sae.steering.record import SteeringRecord
from sae.steering.set_up import Wanted
from sae.steering.steering_inputs import EVERY_TOKEN, Gate
from small_saes import D_IN, dense_codes, small_sae

PLACES = [parse_location(f"transformer_blocks.{block}", "image") for block in range(3)]
KNOWN = {"mean": 0.8, "max": 2.0, "density": 0.5}
EDITS = [Edit(3, 0.5, **KNOWN)]
OUT = [Edit(5, 1.0, **KNOWN)]
DETECTOR = [Edit(7, mean=0.6, density=0.3), Edit(9, mean=1.1, density=0.3)]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn((2, 30, D_IN), generator=torch.Generator().manual_seed(5)) * 2 + 0.4


def steering(method: str, gate: Gate = EVERY_TOKEN) -> Steering:
    out = OUT if METHODS[method].needs_replaces else ()
    return Steering(small_sae("relu"), EDITS, method, 1.5, "raw", out, gate)


def fires(x: torch.Tensor, above: float) -> torch.Tensor:
    f = dense_codes("relu", x)
    return (f[..., 7] > above * 0.6) | (f[..., 9] > above * 1.1)


@pytest.mark.parametrize("above", [0.0, 1.5])
@pytest.mark.parametrize("method", list(METHODS))
def test_any_method_acts_where_the_detector_fires_and_nowhere_else(x, method, above) -> None:
    plain, gated = steering(method).delta(x), steering(method, Gate(DETECTOR, above)).delta(x)
    on = fires(x, above)
    assert 0.1 < float(on.float().mean()) < 0.9
    assert torch.allclose(gated[on], plain[on], rtol=1e-5, atol=1e-6)
    assert not gated[~on].any()


def test_boost_is_add_with_its_own_feature_as_the_gate(x) -> None:
    boosted, added = steering("boost_if_active").delta(x), steering("add", Gate([Edit(3)])).delta(x)
    assert torch.allclose(boosted, added, atol=1e-6) and bool(added.any())


def test_tokens_outside_stay_to_the_bit_and_the_record_tells_how_strongly_it_fired(x) -> None:
    record, half = SteeringRecord(), x.bfloat16()
    tap = Intervention(steering("add", Gate(DETECTOR)), PLACES[0]).begin(record)
    found = tap(half, Moment(0.5, (COND,), 0, 12, 10))
    on = fires(half.float(), 0)
    assert torch.equal(found[~on], half[~on]) and not torch.equal(found[on], half[on])
    f = dense_codes("relu", half.float())
    expected = float((f[..., 7] + f[..., 9]).mean()) / (0.6 * 0.3 + 1.1 * 0.3)
    assert record.summary().presence["where_active"] == pytest.approx(expected, rel=0.02)
    assert steering("add", Gate(DETECTOR)).reads == {"encoder"} and steering("add").push(x) is not None
    assert steering("add", Gate(DETECTOR)).push(x) is None


@pytest.mark.parametrize("method", ["add", "swap"])
def test_a_token_that_keeps_its_length_is_turned_as_far_as_the_sum(x, method) -> None:
    moment, mask = Moment(0.5, (COND,), 0, 12, 10), torch.zeros(1, 6, 5)
    mask[..., :3, :] = 1.0
    for region in (None, mask):
        item = Intervention(steering(method), PLACES[0], mask=region)
        summed = item.begin(SteeringRecord())(x, moment)
        record = SteeringRecord()
        turned = replace(item, keep_norm=True).begin(record)(x, moment)
        torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-5, atol=1e-5)
        cosine = torch.cosine_similarity(turned, summed, dim=-1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-5, atol=1e-5)
        untouched = (summed == x).all(-1)
        assert torch.equal(turned[untouched], x[untouched]) and not untouched.all()
        assert record.summary().mean_ratio > 0
    assert bool(untouched.any())
    none = Intervention(replace(steering(method), strength=0.0), PLACES[0], keep_norm=True)
    assert torch.equal(none.begin(SteeringRecord())(x.bfloat16(), moment), x.bfloat16())


def test_a_gate_that_cannot_be_followed_is_told() -> None:
    with pytest.raises(ValueError, match=r"^active_above: -1 came; give 0 or more"):
        Gate(DETECTOR, -1)
    with pytest.raises(ValueError, match=r"^active_above: a multiple of the mean needs the activation of feature 7"):
        steering("add", Gate([Edit(7)], 0.5))
    with pytest.raises(ValueError, match=r"feature 4000 does not exist"):
        steering("add", Gate([Edit(4000)]))
    strange = FeatureList([Edit(1)], owner=Owner("ab" * 16, "another"))
    with pytest.raises(ValueError, match=r"^where_active: they belong"):
        steering("add", Gate(strange))


def test_a_set_gates_each_place_with_its_own_features_and_leaves_out_those_without() -> None:
    sae = SaeSet([small_sae("relu", site=site) for site in PLACES], "three")
    wanted = Wanted([Edit(3), Edit(40 + 4)], "add", 1.0, "raw", gate=Gate([Edit(40 + 7, mean=1.0)], 0.5))
    planned = wanted.at(sae, sae.members)
    [item] = planned.interventions
    assert (item.site, item.steering.gate.features, item.steering.gate.above) == (PLACES[1], [7], 0.5)
    assert planned.lines == (f"Left out: {PLACES[0]} has features to put in, but none in where_active.",)
    with pytest.raises(ValueError, match=r"^where_active: no place of three has both"):
        Wanted([Edit(3)], "add", gate=Gate([Edit(47)])).at(sae, sae.members)


def test_a_recipe_keeps_the_gate_and_older_packs_refuse_it() -> None:
    needed = NeededSae("ab" * 32)
    plain = Recipe(tuple(EDITS), needed, "transformer_blocks.1", "image", "add")
    assert json.loads(write_recipe(plain))["version"] == 1 and "where_active" not in json.loads(write_recipe(plain))
    gated = Recipe(tuple(EDITS), needed, "transformer_blocks.1", "image", "add", gate=Gate(tuple(DETECTOR), 0.5))
    text = write_recipe(gated)
    assert json.loads(text)["version"] == 3 and read_recipe(text) == gated
    turned = Recipe(tuple(EDITS), needed, "transformer_blocks.1", "image", "add", keep_norm=True)
    assert json.loads(write_recipe(turned))["version"] == 3 and read_recipe(write_recipe(turned)) == turned
    for broken in ({"keep_norm": 1}, {"where_active": 3}, {"active_above": "x"}, {"active_above": -1}):
        with pytest.raises(ValueError, match=r"where_active|active_above|keep_norm"):
            read_recipe(json.dumps({**json.loads(text), **broken}))
