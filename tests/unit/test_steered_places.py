"""A set steers as its members would: edits find their member, swap its halves, strengths their share; in diffusers."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.dictionary.sae_set import SaeSet, members_at
from sae.dictionary.statistics import FeatureStatistics
from sae.hosts.diffusers import steer
from sae.places.moment import Schedule
from sae.places.site import parse_location
from sae.steering.edits import Edit, FeatureList
from sae.steering.set_up import Planned, Wanted
from small_saes import small_sae

pytest.importorskip("diffusers.models.transformers.transformer_flux")

from small_flux import WIDTH, hook_count, inputs, plain_hooks, predict, small_flux

PLACES = [("transformer_blocks.0", "text"), ("transformer_blocks.1.attn", "image"), ("single_blocks.0.attn", "image")]
OUTPUTS = [("transformer_blocks.0", "image"), ("transformer_blocks.1", "image")]
D_SAE = 20


def relu_sae(seed: int, place: tuple[str, str], **more: object) -> SparseAutoencoder:
    """A ReLU SAE whose features fire on about half of the tokens."""
    random = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(D_SAE, WIDTH, generator=random) for name in ("encoder", "decoder")}
    tensors["encoder_bias"] = torch.randn(D_SAE, generator=random)
    return SparseAutoencoder.from_tensors(
        tensors, Architecture("relu"), name=f"sae {seed}", site=parse_location(*place), **more
    )


def a_set(places: list[tuple[str, str]]) -> SaeSet:
    return SaeSet([relu_sae(seed, place) for seed, place in enumerate(places)], "mine")


def planned(sae: SaeSet, wanted: Wanted, location: str = "auto", stream: str = "auto") -> Planned:
    return wanted.at(sae, members_at(sae, location, stream))


@pytest.fixture(scope="module")
def model():
    return small_flux()


def test_edits_go_to_their_members_in_its_own_numbers() -> None:
    found = planned(a_set(PLACES), Wanted([Edit(41, 0.5, mean=2.0), Edit(3), Edit(59)], strength=0.4, unit="raw"))
    told = [(item.site.point, item.steering.features, item.steering.strength) for item in found.interventions]
    assert told == [("block", [3], 0.4), ("attn", [1, 19], 0.4)]
    assert found.interventions[1].steering.edits[0] == Edit(1, 0.5, mean=2.0)
    assert [member.first for member in found.members] == [0, 40] and list(found.lines) == []
    assert found.place == "2 places: transformer_blocks.0 (text), single_transformer_blocks.0.attn (image)"


def test_one_set_equals_plain_hooks_written_by_hand(model) -> None:
    """Δ = s · d at each place, from the decoders themselves."""
    sae = a_set(PLACES)
    edits = [Edit(7), Edit(27, 0.5), Edit(47, -2.0)]
    batch = inputs(batch=2)
    with ExitStack() as stack:
        for member, edit in zip(sae.members, edits, strict=True):
            shift = 1.5 * edit.strength * member.sae.part("decoder").weight[7]
            stack.enter_context(plain_hooks(model, member.site, lambda x, before, shift=shift: x + shift))
        wanted = predict(model, batch)
    with steer(model, planned(sae, Wanted(edits, strength=1.5, unit="raw")).interventions) as record:
        torch.testing.assert_close(predict(model, batch), wanted, rtol=1e-5, atol=1e-5)
    assert len(record._notes) == 3 and hook_count(model) == 0


def test_swap_equals_plain_hooks_written_by_hand(model) -> None:
    """What j fires leaves along d_j, and enters along d_k, in proportion to the two means."""
    sae = a_set(PLACES[1:])
    edits = [Edit(k, 1.0, mean=2.0, density=0.5) for k in (3, 23)]
    replaces = [Edit(k, 1.0, mean=0.5, density=1.0) for k in (5, 25)]

    def swapped(weights: SparseAutoencoder):
        t = {name: weights.weights.tensors[name].whole() for name in ("encoder", "decoder")}
        bias = weights.weights.tensors["encoder_bias"].vector()

        def change(x: Tensor, before: Tensor | None) -> Tensor:
            fires = torch.relu(x @ t["encoder"][5] + bias[5]).unsqueeze(-1)
            return x + 0.8 * (fires * (2.0 * 0.5) / (0.5 * 1.0) * t["decoder"][3] - fires * t["decoder"][5])

        return change

    batch = inputs(batch=2)
    with ExitStack() as stack:
        for member in sae.members:
            stack.enter_context(plain_hooks(model, member.site, swapped(member.sae)))
        wanted = predict(model, batch)
    found = planned(sae, Wanted(edits, "swap", 0.8, "token_norm", replaces))
    before = predict(model, batch)
    with steer(model, found.interventions):
        torch.testing.assert_close(predict(model, batch), wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - before).abs().max() > 1e-3


def test_block_outputs_share_the_total(model) -> None:
    sae = a_set(OUTPUTS)
    adding = planned(sae, Wanted([Edit(3), Edit(23)], strength=0.4))
    assert [item.steering.strength for item in adding.interventions] == [0.2, 0.2]
    scaling = planned(sae, Wanted([Edit(3, 0.25), Edit(23, 0.64)], "scale"))
    assert [item.steering.strengths for item in scaling.interventions] == [[0.5], [0.8]]
    alone = planned(sae, Wanted([Edit(3)], strength=0.4))
    assert [item.steering.strength for item in alone.interventions] == [0.4]


def test_zero_strength_is_bit_identical_and_nothing_stays(model) -> None:
    sae, batch = a_set(PLACES), inputs()
    plain = predict(model, batch)
    for wanted in (Wanted([Edit(7), Edit(47)], strength=0.0), Wanted([Edit(7), Edit(47)], "scale")):
        with steer(model, planned(sae, wanted).interventions) as record:
            assert torch.equal(predict(model, batch), plain)
        assert record.summary().steps == 0
    with steer(model, planned(sae, Wanted([Edit(7), Edit(47)], strength=0.5)).interventions):
        assert not torch.equal(predict(model, batch), plain)
    assert torch.equal(predict(model, batch), plain) and hook_count(model) == 0


def test_half_a_swap_is_left_out_and_said() -> None:
    sae = a_set(PLACES)
    known = {"mean": 1.0, "density": 0.5}
    found = planned(
        sae, Wanted([Edit(3, **known), Edit(23, **known)], "swap", replaces=[Edit(4, **known), Edit(44, **known)])
    )
    assert [str(item.site) for item in found.interventions] == ["transformer_blocks.0 (text)"]
    assert list(found.lines) == [
        "Left out: transformer_blocks.1.attn (image) has features to put in, but none to take out.",
        "Left out: single_transformer_blocks.0.attn (image) has features to take out, but none to put in.",
    ]
    with pytest.raises(ValueError, match=r"^replaces: no place of mine has both features to put in and features to"):
        planned(sae, Wanted([Edit(3, **known)], "swap", replaces=[Edit(44, **known)]))


def test_a_location_leaves_features_out_and_says_where() -> None:
    sae = a_set(PLACES)
    found = planned(sae, Wanted([Edit(3), Edit(23), Edit(43)]), "transformer_blocks.0-1.attn")
    assert [str(item.site) for item in found.interventions] == ["transformer_blocks.1.attn (image)"]
    assert list(found.lines) == [
        "Left out by location and stream: the features at single_transformer_blocks.0.attn (image), "
        "transformer_blocks.0 (text)."
    ]
    with pytest.raises(ValueError, match=r"^features: none of them is at the places asked for, transformer_blocks\.1"):
        planned(sae, Wanted([Edit(3)]), "transformer_blocks.1.attn")


def test_warnings_of_a_list_are_told_once_in_the_sets_numbers() -> None:
    unowned = FeatureList([Edit(3, mean=1.0), Edit(23, mean=1.0)])
    [line] = planned(a_set(PLACES), Wanted(unowned)).lines
    assert line.startswith("Nothing says which SAE the activations and ranges of feature 3, 23 were measured on")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted([]), r"features: the list is empty, so there is nothing to steer with"),
        (Wanted([Edit(60)]), r"features: feature 60 does not exist in mine, which has the features 0 to 59\."),
        (Wanted([Edit(3)], "swap"), r"replaces: 'swap' needs the features to take out, but none came"),
        (Wanted([Edit(3)], replaces=[Edit(50)]), r"replaces: 'add' takes no features out"),
        (
            Wanted([Edit(23)], unit="max"),
            r"unit: 'max' needs the activation of feature 3, and sae 1 has no statistics of it; .*; that is in its own "
            r"numbers, and its feature 0 is 20 of mine\.",
        ),
        (
            Wanted(FeatureList([Edit(3)], owner=relu_sae(0, PLACES[0]).owner)),
            r"features: they belong to sae 0 \(\w+\), but the SAE connected is mine \(\w+\); use the one they",
        ),
        (
            Wanted([Edit(3), Edit(23)], mask=torch.ones(1, 8, 8)),
            r"mask: it marks a part of the picture, but the stream is text",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(wanted: Wanted, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        planned(a_set(PLACES), wanted)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_the_members_statistics_give_the_unit() -> None:
    statistics = FeatureStatistics(torch.ones(D_SAE), torch.full((D_SAE,), 4.0), torch.ones(D_SAE), 10)
    with_numbers = relu_sae(1, PLACES[1], statistics=statistics)
    sae = SaeSet([relu_sae(0, PLACES[0]), with_numbers], "mine")
    [item] = planned(sae, Wanted([Edit(23)], strength=0.5, unit="max")).interventions
    x = torch.zeros(1, 1, WIDTH)
    assert torch.allclose(item.steering.delta(x)[0, 0], 2.0 * with_numbers.direction([3])[0])


def test_one_report_over_all_places_names_where_it_was_largest(model) -> None:
    sae = a_set(PLACES)
    wanted = Wanted([Edit(3, 0.1), Edit(23, 0.9)], unit="token_norm", schedule=Schedule(0.0, 1.0))
    with steer(model, planned(sae, wanted).interventions) as record:
        predict(model, inputs())
    summary = record.summary()
    assert (summary.steps, len(summary.curve)) == (1, 1)
    assert summary.mean_ratio == pytest.approx(0.5, rel=1e-4) and summary.max_ratio == pytest.approx(0.9, rel=1e-4)
    assert summary.warnings[0].startswith("Δ reached 0.9 of the token norm at transformer_blocks.1.attn (image); above")


def test_one_sae_has_one_intervention_as_ever() -> None:
    sae = small_sae("relu")
    found = Wanted([Edit(3)]).at(sae, members_at(sae, "transformer_blocks.0-1", "auto"))
    assert found.place == "transformer_blocks.0-1 (image)" and found.interventions[0].steering.sae is sae
