"""Regions beside ComfyUI's areas, which give the model crops of the latent.

The expected weights come from pixels: the crop's place is found by its content in the noise, not by its prompt.
"""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_perpneg

import nodes as core
from sae_steering_pack.sae.finding.features import FeatureReader
from sae_steering_pack.sae.hosts.comfyui.areas import AREAS_KEY, PICTURE_KEY, Areas, crops_of, size_of
from sae_steering_pack.sae.hosts.comfyui.steering import observe
from sae_steering_pack.sae.places.moment import Crop
from sae_steering_pack.sae.places.site import parse_location
from steered_rows import (
    BLOCK,
    JOINT,
    STRENGTH,
    Calls,
    area,
    check,
    compared,
    left_half,
    pixel_means,
    places_of,
    speckled,
)
from tiny_flux import conditioning, dense_codes, make_sae, run_node, sample, steer


def test_an_area_where_the_mask_is_not_is_left_alone(model, sae):
    """The area is the last quarter, the mask the left half: they have no token in common."""
    steered = steer(model, sae, *BLOCK, strength=STRENGTH, mask=left_half(16, 16))
    rows = compared(model, steered, positive=area(2, 8, 8, 8, 8), size=(16, 16))
    assert check(rows, left_half(16, 16), (16, 16)) == [(8, 8, 8, 8)]
    assert not rows[0][1].any()


def test_areas_of_one_size_in_one_call_have_each_their_own_place(model, sae):
    mask = speckled(16, 16)
    positive = area(2, 8, 6, 0, 4) + area(3, 8, 6, 7, 9) + area(4, 8, 6, 3, 1)
    steered = steer(model, sae, *BLOCK, strength=STRENGTH, mask=mask)
    rows = compared(model, steered, positive=positive, size=(16, 16))
    assert sorted(check(rows, mask, (16, 16))) == [(0, 4, 8, 6), (3, 1, 8, 6), (7, 9, 8, 6)]


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((16, 16), (12, 4, 2, 10)),  # of other proportions than the picture
        ((16, 16), (8, 8, 3, 5)),  # its tokens begin between those of the whole picture
        ((17, 13), (9, 7, 8, 6)),  # odd, and up to the padded edge
        ((10, 16), (40, 40, 2, 8)),  # core cuts it at the picture's edge
    ],
    ids=str,
)
@pytest.mark.parametrize(("place", "kind"), [(BLOCK, "double"), (JOINT, "single")], ids=["double", "joint"])
def test_any_area(model, sae, size, box, place, kind):
    mask, (height, width, top, left) = speckled(*size), box
    steered = steer(model, sae, *place, strength=STRENGTH, mask=mask)
    rows = compared(model, steered, kind, positive=area(2, *box), size=size)
    assert check(rows, mask, size) == [(top, left, min(height, size[0] - top), min(width, size[1] - left))]
    if kind == "single":  # the text of an area is steered as a whole
        assert torch.allclose(rows[0][1][:6], torch.full((6,), STRENGTH), atol=1e-5)


def test_an_area_beside_the_whole_picture(model, sae):
    mask = speckled(16, 12)
    steered = steer(model, sae, *BLOCK, strength=STRENGTH, mask=mask)
    positive = conditioning(2) + area(3, 8, 6, 8, 6)
    rows = compared(model, steered, positive=positive, size=(16, 12))
    assert sorted(check(rows, mask, (16, 12))) == [(0, 0, 16, 12), (8, 6, 8, 6)]


COND_PLACES = [(0, 4, 8, 8), (8, 8, 8, 8)]


@pytest.mark.parametrize(
    ("negative", "own"),
    [
        (conditioning(5), [(0, 0, 16, 16)]),
        (area(5, 16, 16, 0, 0) + area(6, 6, 6, 2, 3), [(0, 0, 16, 16), (2, 3, 6, 6)]),
    ],
    ids=["whole", "areas"],
)
@pytest.mark.parametrize("side", ["both", "cond", "uncond"])
def test_both_sides_of_guidance(model, sae, side, negative, own):
    """Core gives the negative side a copy of each area, with the positive's uuid, in the same call."""
    mask = speckled(16, 16)
    positive = area(2, 8, 8, 8, 8) + area(3, 8, 8, 0, 4)
    steered = steer(model, sae, *BLOCK, strength=STRENGTH, mask=mask, side=side)
    rows = compared(model, steered, positive=positive, negative=negative, cfg=2.0, size=(16, 16))
    places = sorted(check([row for row in rows if row[1].any()], mask, (16, 16)))
    uncond = own + COND_PLACES
    assert len(rows) == len(COND_PLACES + uncond)
    assert places == sorted({"both": COND_PLACES + uncond, "cond": COND_PLACES, "uncond": uncond}[side])


def test_each_picture_of_a_batch_has_its_own_mask_in_an_area(model, sae):
    mask = speckled(12, 12, count=2)
    steered = steer(model, sae, *BLOCK, strength=STRENGTH, mask=mask)
    positive = area(2, 8, 6, 3, 5) + area(3, 8, 6, 0, 0)
    rows = compared(model, steered, positive=positive, size=(12, 12), batch=2)
    assert sorted(check(rows, mask, (12, 12), batch=2)) == [(0, 0, 8, 6)] * 2 + [(3, 5, 8, 6)] * 2


def test_areas_in_percent_and_around_a_mask(model, sae):
    region = torch.zeros(1, 128, 128)
    region[:, 40:112, 16:88] = 1
    positive = (
        core.ConditioningSetAreaPercentage().append(conditioning(2), 0.5, 0.25, 0.25, 0.6, 1.0)[0]
        + core.ConditioningSetMask().append(conditioning(3), region, "mask bounds", 1.0)[0]
    )
    mask = speckled(16, 16)
    steered = steer(model, sae, *BLOCK, strength=STRENGTH, mask=mask)
    rows = compared(model, steered, positive=positive, size=(16, 16))
    assert sorted(check(rows, mask, (16, 16))) == [(5, 2, 9, 9), (10, 4, 4, 8)]


def test_a_prompt_with_three_lists(model, sae):
    """Perp-Neg calculates a third, empty prompt beside the two sides."""
    mask, positive = speckled(16, 16), area(2, 8, 8, 8, 8) + area(3, 8, 8, 0, 4)
    steered = steer(model, sae, *BLOCK, strength=STRENGTH, mask=mask)
    rows = []
    for each in (model, steered):
        watch = Calls("double")
        guider = nodes_perpneg.Guider_PerpNeg(watch.on(each))
        guider.set_conds(positive, conditioning(4), conditioning(5))
        guider.set_cfg(3.0, 1.0)
        noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 16, 16), 7)
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.0])
        guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=7)
        rows.append(watch)
    plain, changed = rows
    shares = [
        (after - before).norm(dim=-1) / before.norm(dim=-1)
        for before, after in zip(plain.tokens, changed.tokens, strict=True)
    ]
    pairs = [pair for x, share in zip(plain.latents, shares, strict=True) for pair in zip(x, share, strict=True)]
    assert sorted(check(pairs, mask, (16, 16))) == [(0, 0, 16, 16)] * 2 + [(0, 4, 8, 8)] * 3 + [(8, 8, 8, 8)] * 3


def test_a_flux_with_one_latent_cell_a_token():
    """FLUX.2's patch size: a Moment counts half tokens, and there a cell has two of them each way."""
    latent = torch.zeros(1, 16, 4, 6)
    options = {
        PICTURE_KEY: (9, 11),
        AREAS_KEY: Areas.of([[{"area": (4, 6, 3, 5), "uuid": 1}]], torch.zeros(1, 16, 9, 11)),
        "cond_or_uncond": [0],
        "uuids": [1],
    }
    assert crops_of(latent, options, 1, 1) == (Crop(6, 10, 18, 22),)
    assert crops_of(latent, options, 2, 1) == (Crop(3, 5, 9, 11),)
    assert (
        crops_of(latent, {**options, "uuids": [2]}, 2, 1) == crops_of(latent, {**options, "uuids": []}, 2, 1) == (None,)
    )
    assert crops_of(latent, {}, 2, 1) == ()  # a call outside of a run


def test_one_prompt_with_two_areas_of_one_size_has_no_place():
    conds = [[{"area": (4, 6, 3, 5), "uuid": 1}, {"area": (4, 6, 0, 0), "uuid": 1}, {"area": (4, 4, 0, 0), "uuid": 1}]]
    options = {AREAS_KEY: Areas.of(conds, torch.zeros(1, 16, 9, 11)), "cond_or_uncond": [0], "uuids": [1]}
    assert crops_of(torch.zeros(1, 16, 4, 6), options, 2, 1) == (None,)
    assert crops_of(torch.zeros(1, 16, 4, 4), options, 2, 1) == (Crop(0, 0, 9, 11),)


def test_packed_latents_are_whole():
    """Several latents of one run are packed into one row, (batch, 1, numbers); they have no areas."""
    packed = torch.zeros(1, 1, 1000)
    options = {PICTURE_KEY: size_of(packed), AREAS_KEY: Areas.of([[{"area": (4, 6, 3, 5), "uuid": 1}]], packed)}
    assert crops_of(packed, options, 2, 1) == ()


@pytest.mark.parametrize("positive", [area(2, 8, 8, 8, 8), conditioning(2) + area(3, 8, 10, 3, 2)], ids=["one", "two"])
def test_a_reader_counts_the_tokens_of_the_whole_pictures_mask(model, positive):
    """The tokens are those that a plain watch sees under the mask; the codes are counted from them by hand."""
    sae, site, mask = make_sae(), parse_location("transformer_blocks.0", "image"), torch.zeros(1, 128, 128)
    mask[:, :90, 70:] = 1
    reader, watch = FeatureReader(sae, site, mask), Calls("double")
    sample(watch.on(observe(model, site, reader, sae)), positive, steps=1, size=(16, 16))
    inside = []
    for latents, tokens in zip(watch.latents, watch.tokens, strict=True):
        for latent, row in zip(latents, tokens, strict=True):
            _, top, left = places_of(latent, (16, 16))
            inside.append(row[pixel_means(mask[0], top, left, *latent.shape[-2:]) > 0])
    codes = dense_codes(torch.cat(inside))
    assert reader.tally.tokens == len(codes) > 0
    assert torch.allclose(reader.tally.mean, codes.mean(0), rtol=1e-4, atol=1e-6)


def test_a_reader_without_a_token(model):
    sae, site = make_sae(), parse_location("transformer_blocks.0", "image")
    reader = FeatureReader(sae, site, left_half(16, 16))
    sample(observe(model, site, reader, sae), area(2, 8, 8, 8, 8), steps=1, size=(16, 16))
    assert reader.tally.tokens == 0


def test_the_heat_of_features_is_of_the_whole_picture(model):
    sae, site = make_sae(), parse_location("transformer_blocks.0", "image")
    for positive, shape in ((conditioning(2) + area(3, 8, 8, 8, 8), (8, 8)), (area(3, 8, 8, 8, 8), None)):
        reader = FeatureReader(sae, site)
        sample(observe(model, site, reader, sae), positive, steps=1, size=(16, 16))
        assert [tuple(heat.shape) for heat in reader.heat([3]).values()] == ([shape] if shape else [])


def test_finding_features_where_no_area_touches_the_mask_is_told(model, node_classes):
    given = {
        "model": model, "sae": make_sae(), "positive": area(2, 8, 8, 8, 8),
        "latent_image": {"samples": torch.zeros(1, 16, 16, 16)},
        "seed": 1, "steps": 1, "count": 3, "rank_by": "mean", "location": "transformer_blocks.0", "stream": "image",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"^mask: no area of the prompt touches it, so there is no token to read; pai"):
        run_node(node_classes["TopActivatingFeatures"], **given, mask=left_half(16, 16))
