"""Regions beside nodes that cut the latent: tiles and windows are found by their numbers, or left alone and told."""

import pytest
import torch
from comfy import context_windows

from sae_steering_pack.sae.finding.features import FeatureReader
from sae_steering_pack.sae.hosts.comfyui.areas import place_in
from sae_steering_pack.sae.hosts.comfyui.steering import observe
from sae_steering_pack.sae.places.site import parse_location
from steered_rows import BLOCK, JOINT, STRENGTH, check, compared, left_half, speckled
from tiny_flux import conditioning, make_sae, sample, steer


def in_tiles(model, change=None, stacked=False):
    """Another node's wrapper that gives the model two halves of what it was given, one after the other or as rows."""
    cut = model.clone()

    def halves(apply, call):
        tiles = call["input"].chunk(2, dim=-1)
        tiles = tiles if change is None else [change(tile) for tile in tiles]
        if not stacked:
            return torch.cat([apply(tile, call["timestep"], **call["c"]) for tile in tiles], dim=-1)
        given = {key: torch.cat([value] * 2) if torch.is_tensor(value) else value for key, value in call["c"].items()}
        return torch.cat(apply(torch.cat(tiles), torch.cat([call["timestep"]] * 2), **given).chunk(2), dim=-1)

    cut.set_model_unet_function_wrapper(halves)
    return cut


def in_changed_tiles(model):
    """Tiles that are turned around on their way, so that they are nowhere in the picture."""
    return in_tiles(model, lambda tile: tile.flip(-1))


def in_windows(model):
    """Core's windows over the latent's rows: prompts are calculated on parts of what the run samples."""
    handler = context_windows.IndexListContextHandler(
        context_windows.get_matching_context_schedule(context_windows.ContextSchedules.STATIC_STANDARD),
        context_windows.get_matching_fuse_method(context_windows.ContextFuseMethods.FLAT),
        context_length=8, context_overlap=0, dim=2,
    )  # fmt: skip
    cut = model.clone()
    cut.model_options["context_handler"] = handler
    return cut


HALVES = {
    in_tiles: [(0, 0, 16, 8), (0, 8, 16, 8)],
    (lambda model: in_tiles(model, stacked=True)): [(0, 0, 16, 8), (0, 8, 16, 8)],
    in_windows: [(0, 0, 8, 16), (7, 0, 9, 16)],  # core lets them share a row
}


@pytest.mark.parametrize("cut", HALVES, ids=["tiles", "tiles as rows", "windows"])
@pytest.mark.parametrize("place", [BLOCK, JOINT], ids=lambda place: place[1])
def test_parts_have_the_region_of_their_place(model, sae, cut, place):
    """Tiles and windows are found in the whole latent by their numbers."""
    mask, divided = speckled(16, 16), cut(model)
    steered = steer(divided, sae, *place, strength=STRENGTH, mask=mask)
    run = {"size": (16, 16), "cfg": 2.0, "negative": conditioning(4)}
    rows = compared(divided, steered, "double" if place == BLOCK else "single", **run)
    assert sorted(check(rows, mask, (16, 16))) == sorted(HALVES[cut] * 2)


@pytest.mark.parametrize("place", [BLOCK, JOINT], ids=lambda place: place[1])
@pytest.mark.parametrize("side", ["both", "cond"])
def test_parts_whose_place_is_not_known_are_left_alone_and_that_is_told(model, sae, place, side):
    """Even where the mask has the proportions of the part. Without a mask every part is steered, as it is."""
    reports, run, divided = [], {"size": (16, 16), "cfg": 2.0, "negative": conditioning(4)}, in_changed_tiles(model)
    steered = steer(divided, sae, *place, strength=STRENGTH, mask=left_half(16, 8), side=side, report=reports.append)
    assert torch.equal(sample(steered, **run), sample(divided, **run))
    assert reports[0].steps == 0
    (warning,) = reports[0].warnings
    assert warning.startswith("The mask was not used everywhere: the model was given parts of the picture whose place")
    everywhere = sample(steer(divided, sae, *place, strength=STRENGTH, side=side, report=reports.append), **run)
    assert reports[1].steps == 2 and reports[1].warnings == []
    assert not torch.allclose(everywhere, sample(divided, **run), atol=1e-3)


@pytest.mark.parametrize(("scale", "told"), [(1, False), (0.5, False), (2, True)])
def test_a_mask_of_a_larger_picture_than_the_one_that_is_drawn_is_told(model, sae, scale, told):
    """Upscalers run a whole sampling for each tile, of which nothing tells that it is a part."""
    reports, side = [], int(64 * scale)
    sample(steer(model, sae, *BLOCK, strength=STRENGTH, mask=torch.ones(1, side, side), report=reports.append))
    start = "The mask is 128×128 and the picture 64×64, so the mask was fitted to it: where this run draws a tile"
    assert [warning.startswith(start) for warning in reports[0].warnings] == [True] * told


def test_a_part_that_is_everywhere_is_nowhere():
    """Without noise the numbers tell nothing."""
    assert place_in(torch.zeros(1, 16, 4, 4), torch.zeros(1, 16, 8, 8)) is None
    noise = torch.randn(2, 16, 3, 8, 8)
    assert place_in(noise[:, :, :, 2:6, 3:8], noise) == (2, 3)  # of a video, in both pictures of the batch
    assert place_in(torch.cat([noise[:1, :, :, 2:6, 3:8], noise[1:, :, :, :4, :5]]), noise) is None
    assert place_in(noise[:, :, :2, :4, :4], noise) is place_in(torch.cat([noise] * 2, -1), noise) is None


def test_a_part_that_is_not_steered_anyway_is_no_loss(model, sae):
    """The tiles are whole prompts' halves on the prompt's side, and the steering is for the other one."""
    reports = []
    sample(steer(in_changed_tiles(model), sae, *BLOCK, mask=left_half(8, 8), side="uncond", report=reports.append))
    assert reports[0].warnings == []


def test_rows_of_stacked_tiles_have_no_known_side(model, sae):
    """Core's list of sides does not say how another node orders its rows; without guidance there is one side only."""
    stacked, reports, run = in_tiles(model, stacked=True), [], {"size": (16, 16), "negative": conditioning(4)}
    steered = steer(stacked, sae, *BLOCK, side="cond", report=reports.append)
    assert torch.equal(sample(steered, cfg=2.0, **run), sample(stacked, cfg=2.0, **run))
    assert reports[0].steps == 0
    assert [warning.split(":")[0] for warning in reports[0].warnings] == ["apply_to was not followed everywhere"]
    whole = sample(steer(stacked, sae, *BLOCK), **run)
    assert torch.equal(sample(steered, **run), whole) and not torch.equal(whole, sample(stacked, **run))


def test_a_reader_of_a_part_without_a_place(model):
    sae, site = make_sae(), parse_location("transformer_blocks.0", "image")
    with pytest.raises(ValueError, match=r"^mask: the model is given parts of the picture whose place is not known"):
        sample(observe(in_changed_tiles(model), site, FeatureReader(sae, site, left_half(8, 8)), sae), steps=1)
