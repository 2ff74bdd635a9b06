"""Sets of SAEs: numbers, owner, statistics, selection of places, and what is no set."""

from __future__ import annotations

import pytest
import torch

from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.fingerprint import fingerprint
from sae.dictionary.owner import Origin, TrainedOn
from sae.dictionary.sae_set import SaeSet, check_sites, members_at, saes_of
from sae.dictionary.statistics import FeatureStatistics
from sae.formats.sets import make_set, set_folders
from sae.places.depth import Depth
from sae.places.families import FAMILIES
from sae.places.site import parse_location
from small_saes import small_sae

TEXT = ("transformer_blocks.0", "text")
ATTENTION = ("transformer_blocks.1.attn", "image")
SINGLE = ("single_transformer_blocks.2.attn", "image")
BLOCK = ("transformer_blocks.1", "image")


def placed(place: tuple[str, str], d_sae: int = 40, kind: str = "relu", **more: object) -> SparseAutoencoder:
    return small_sae(kind, d_sae=d_sae, site=parse_location(*place), **more)


def three() -> SaeSet:
    """40, 30 and 20 features, given in another order than the network's."""
    return SaeSet([placed(SINGLE, 20), placed(TEXT, 40), placed(ATTENTION, 30)], "mine")


def test_features_are_numbered_through_in_the_order_of_the_network() -> None:
    found = three()
    assert [(str(m.site), m.first) for m in found.members] == [
        ("transformer_blocks.0 (text)", 0),
        ("transformer_blocks.1.attn (image)", 40),
        ("single_transformer_blocks.2.attn (image)", 70),
    ]
    assert (found.d_sae, found.count, found.d_in) == (90, 90, 12)
    assert [found.member_of(feature).first for feature in (0, 39, 40, 69, 70, 89)] == [0, 0, 40, 40, 70, 70]
    with pytest.raises(ValueError, match=r"^feature: mine has no feature 90; its features are 0 to 89\.$"):
        found.member_of(90)


def test_at_one_block_attention_comes_before_the_output() -> None:
    sites = [m.site.point for m in SaeSet([placed(BLOCK), placed(ATTENTION)], "x").members]
    assert sites == ["attn", "block"]


def test_a_set_is_known_by_what_its_members_contain() -> None:
    one, same = three(), three()
    assert one.owner == same.owner and one.owner.name == "mine"
    other = SaeSet([placed(TEXT, 40), placed(ATTENTION, 31), placed(SINGLE, 20)], "mine")
    assert one.owner != other.owner and one.owner not in [sae.owner for sae in saes_of(one)]
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert fingerprint(one).startswith("set-") and len(fingerprint(one)) == 68
    moved = SaeSet([placed(TEXT, 40), placed(("transformer_blocks.0.attn", "image"), 30), placed(SINGLE, 20)], "mine")
    assert fingerprint(moved) != fingerprint(one)  # the same SAEs at other places steer otherwise


def test_statistics_are_the_members_in_a_row() -> None:
    full = FeatureStatistics(torch.arange(40.0), torch.full((40,), 2.0), torch.full((40,), 0.5), 100)
    part = FeatureStatistics(torch.arange(30.0), None, torch.zeros(30), 60)
    found = SaeSet([placed(TEXT, 40, statistics=full), placed(ATTENTION, 30, statistics=part)], "x").statistics
    assert found is not None and found.mean is not None and found.max is None and found.tokens == 60
    assert found.mean.tolist() == [*range(40), *range(30)] and int(found.dead.sum()) == 30
    assert SaeSet([placed(TEXT, statistics=full), placed(ATTENTION)], "x").statistics is None


@pytest.mark.parametrize(
    ("location", "stream", "firsts"),
    [
        ("auto", "auto", [0, 40, 70]),
        ("auto", "image", [40, 70]),
        ("transformer_blocks.0-1.attn", "auto", [40]),
        ("double_blocks.1.img_attn", "auto", [40]),
        ("transformer_blocks.0", "auto", [0]),
        ("single_transformer_blocks.0-3.attn", "image", [70]),
    ],
)
def test_location_and_stream_choose_members_with_their_numbers(location: str, stream: str, firsts: list[int]) -> None:
    assert [member.first for member in members_at(three(), location, stream)] == firsts


@pytest.mark.parametrize(
    ("location", "stream", "message"),
    [
        (
            "transformer_blocks.0.attn",
            "auto",
            r"location: no SAE of mine is at transformer_blocks\.0\.attn; 'auto' takes",
        ),
        ("transformer_blocks.1.attn", "text", r"location: no SAE of mine is at transformer_blocks\.1\.attn \(text\); "),
        ("auto", "joint", r"location: no SAE of mine is at \(joint\); 'auto' takes all of its places, transformer_bl"),
        ("auto", "both", r"stream: 'both' is not a stream; use auto, image, text or joint\."),
        ("nowhere", "auto", r"location: 'nowhere' is not a place in FLUX or another known model; write"),
    ],
)
def test_a_place_without_members_is_told_with_those_there_are(location: str, stream: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        members_at(three(), location, stream)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_part_of_a_set_is_a_set_or_one_sae() -> None:
    whole = three()
    part = whole.at("auto", "image")
    assert isinstance(part, SaeSet) and part.name == "mine at (image)" and part.d_sae == 50
    assert part.owner != whole.owner and whole.at("auto", "auto") is whole
    one = whole.at("transformer_blocks.0", "auto")
    assert one is whole.members[0].sae


def test_one_sae_acts_where_it_is_told() -> None:
    [member] = members_at(placed(TEXT), "transformer_blocks.1", "image")
    assert (str(member.site), member.first) == ("transformer_blocks.1 (image)", 0)


def test_a_model_that_lacks_a_place_is_told_with_the_member() -> None:
    found = three()
    flux, qwen = (next(family for family in FAMILIES if family.name == name) for name in ("FLUX.1", "Qwen-Image"))
    check_sites(found, found.members, flux, Depth(2, 3))
    message = r"my relu of mine is at single_transformer_blocks\.2\.attn \(image\), but this"
    with pytest.raises(
        ValueError, match=rf"^sae: {message} FLUX\.1 has .*single_transformer_blocks\.0-1 .*; use a set"
    ) as caught:
        check_sites(found, found.members, flux, Depth(2, 2))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    check_sites(found, members_at(found, "auto", "text"), flux, Depth(2, 2))
    with pytest.raises(ValueError, match=rf"^sae: {message} Qwen-Image has transformer_blocks\.0-1 \(image, text\)"):
        check_sites(found, found.members, qwen, Depth(2))


@pytest.mark.parametrize(
    ("saes", "message"),
    [
        ([], r"a set needs at least two SAEs, but nothing came for x"),
        ([placed(TEXT)], r"a set needs at least two SAEs, but my relu alone came for x; use one SAE as it is"),
        ([placed(TEXT), small_sae("topk")], r"my topk does not tell where in the model it belongs.* give its location"),
        (
            [placed(TEXT), placed(TEXT)],
            r"my relu and my relu are both at transformer_blocks\.0 \(text\), but a set has",
        ),
        (
            [placed(("transformer_blocks.0-3", "text")), placed(("transformer_blocks.2", "text"))],
            r"my relu and my relu are both at transformer_blocks\.2 \(text\), but a set has one SAE for each place",
        ),
        (
            [placed(("single_transformer_blocks.0", "joint")), placed(("single_transformer_blocks.0", "image"))],
            r"my relu and my relu are both at single_transformer_blocks\.0 \(image\)",
        ),
        (
            [placed(TEXT), small_sae("topk", d_in=16, site=parse_location(*SINGLE))],
            r"my relu has width 12 and my topk width 16, which is not one model's; make sets",
        ),
    ],
)
def test_what_is_no_set(saes: list[SparseAutoencoder], message: str) -> None:
    with pytest.raises(ValueError, match=f"^sae: {message}") as caught:
        SaeSet(saes, "x")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def of_model(place: tuple[str, str], model: str) -> SparseAutoencoder:
    sae = placed(place)
    sae.origin = Origin("test", (), {"model_name": model})
    return sae


def test_saes_of_different_models_are_no_set() -> None:
    here = of_model(TEXT, "black-forest-labs/FLUX.1-schnell")
    same, silent = of_model(ATTENTION, "flux.1-schnell"), placed(SINGLE)
    assert len(make_set([here, same, silent], "x").members) == 3
    with pytest.raises(ValueError, match=r"my relu was trained on black-forest-labs/FLUX.1-schnell and my relu on F"):
        make_set([here, silent, of_model(ATTENTION, "FLUX.1-dev")], "x")


def of_family(place: tuple[str, str], *trained: str) -> SparseAutoencoder:
    sae = placed(place)
    sae.trained_on = TrainedOn(*trained) if trained else None
    return sae


def test_a_set_was_trained_on_what_its_members_were() -> None:
    here, silent = of_family(TEXT, "Chroma", "Chroma1-HD", "Chroma-1"), of_family(SINGLE)
    assert SaeSet([here, silent], "x").trained_on == here.trained_on
    assert SaeSet([silent, of_family(TEXT)], "x").trained_on is None
    other = of_family(ATTENTION, "Chroma", "Chroma1-HD", "Chroma-2")
    assert SaeSet([here, other, silent], "x").trained_on == TrainedOn("Chroma", "Chroma1-HD")


def test_saes_of_different_families_are_no_set() -> None:
    message = r"^sae: my relu was trained on FLUX\.1 and my relu on Chroma; make sets of SAEs of the same model\.$"
    with pytest.raises(ValueError, match=message):
        SaeSet([of_family(TEXT, "FLUX.1"), of_family(SINGLE), of_family(ATTENTION, "Chroma")], "x")


def test_places_of_all_families_are_in_the_networks_order() -> None:
    sites = ["layers.1", "layers.0.feed_forward", "layers.0.attention"]
    found = SaeSet([placed((site, "image")) for site in sites], "x")
    assert [member.site.location for member in found.members] == sites[::-1]
    blocks = ["blocks.1.update", "blocks.0.ffn"]
    found = SaeSet([placed((site, "image")) for site in blocks], "x")
    assert [member.site.location for member in found.members] == blocks[::-1]


def test_folders_whose_names_tell_distinct_places_are_sets() -> None:
    names = [
        "shapes/a-transformer_blocks.0.attn-image/model.safetensors",
        "shapes/a-transformer_blocks.1.attn-image/model.safetensors",
        "flat/transformer_blocks.0-1.safetensors",
        "flat/transformer_blocks.1-1.safetensors",
        "twice/x-transformer_blocks.0-1-k-16/model.safetensors",
        "twice/x-transformer_blocks.0-1-k-64/model.safetensors",
        "mixed/transformer_blocks.0-1.safetensors",
        "mixed/clip.safetensors",
        "one/transformer_blocks.0-1.safetensors",
        "transformer_blocks.0-1.safetensors",
        "deep/inner/transformer_blocks.0-1.safetensors",
        "deep/inner/transformer_blocks.1-1.safetensors",
    ]
    found = set_folders(names)
    assert list(found) == ["deep/inner", "flat", "shapes"]
    assert found["shapes"] == names[:2]
    windows = [name.replace("/", "\\") for name in names]
    assert set_folders(windows)["shapes"] == windows[:2] and list(set_folders(windows)) == list(found)
