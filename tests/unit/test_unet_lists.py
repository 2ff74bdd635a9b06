"""Places in a UNet: how they are written, named by files, ordered, and found in a model by either project's names."""

from __future__ import annotations

import re

import pytest
import torch

from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.sae_set import SaeSet
from sae.places.depth import Attention, Depth
from sae.places.families import family_named
from sae.places.moment import Crop, Moment
from sae.places.named_choices import first_text, picture_attention
from sae.places.region import moment_weights, token_weights
from sae.places.site import Site, parse_location, site_from_name
from small_saes import ARCHITECTURES, tensors_of

SDXL = Depth(
    attentions=(
        Attention("down_blocks.1.attentions.0", "input_blocks.4.1", 2, 640),
        Attention("down_blocks.1.attentions.1", "input_blocks.5.1", 2, 640),
        Attention("down_blocks.2.attentions.0", "input_blocks.7.1", 10, 1280),
        Attention("down_blocks.2.attentions.1", "input_blocks.8.1", 10, 1280),
        Attention("mid_block.attentions.0", "middle_block.1", 10, 1280),
        Attention("up_blocks.0.attentions.0", "output_blocks.0.1", 10, 1280),
        Attention("up_blocks.0.attentions.1", "output_blocks.1.1", 10, 1280),
        Attention("up_blocks.0.attentions.2", "output_blocks.2.1", 10, 1280),
        Attention("up_blocks.1.attentions.0", "output_blocks.3.1", 2, 640),
    )
)
FAMILY = family_named("SDXL")


@pytest.mark.parametrize(
    ("written", "location", "blocks", "point"),
    [
        ("down_blocks.2.attentions.1", "down_blocks.2.attentions.1", (1,), "block"),
        ("unet.up_blocks.0.attentions.0-2.update", "up_blocks.0.attentions.0-2.update", (0, 1, 2), "update"),
        ("mid_block.attentions.0", "mid_block.attentions.0", (0,), "block"),
        ("input_blocks.8.1", "down_blocks.2.attentions.1", (1,), "block"),
        ("middle_block.1.update", "mid_block.attentions.0.update", (0,), "update"),
        ("output_blocks.1.1", "up_blocks.0.attentions.1", (1,), "block"),
        (
            "output_blocks.1.1.transformer_blocks.0-3,7.attn2",
            "up_blocks.0.attentions.1.transformer_blocks.0-3,7.attn2", (0, 1, 2, 3, 7), "cross",
        ),
        ("middle_block.1.transformer_blocks.9.ff", "mid_block.attentions.0.transformer_blocks.9.ff", (9,), "mlp"),
        (
            "down_blocks.1.attentions.0.transformer_blocks.1.attn1",
            "down_blocks.1.attentions.0.transformer_blocks.1.attn1", (1,), "attn",
        ),
    ],
)  # fmt: skip
def test_either_projects_names_lead_to_the_place(written, location, blocks, point):
    site = FAMILY.place(parse_location(written), SDXL)
    assert (site.location, site.blocks, site.point, site.stream) == (location, blocks, point, "image")
    assert parse_location(site.location) == site and FAMILY.has(site, SDXL)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("down_blocks.2.attentions.2", "names block 2, but this model's down_blocks.2.attentions are 0 to 1."),
        ("down_blocks.0.attentions.0", "this model's down_blocks.0.attentions are none at all."),
        ("input_blocks.8.0", "input_blocks.8.0 is no place in SDXL: there is no transformer; this model has down_bl"),
        ("input_blocks.1.1", "there is no transformer; this model has"),
        ("mid_block.attentions.0.transformer_blocks.10", "transformer_blocks are 0 to 9."),
        ("transformer_blocks.0", "transformer_blocks are not among its blocks; this model has down_blocks.1.attent"),
    ],
)  # fmt: skip
def test_a_place_that_a_unet_lacks(written, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FAMILY.place(parse_location(written), SDXL)


@pytest.mark.parametrize(
    "written", ["down_blocks.2", "mid_block.attentions", "down_blocks.x.attentions.1", "up_blocks.0.attentions.1.attn1"]
)
def test_what_is_no_place(written):
    with pytest.raises(ValueError, match="location: "):
        parse_location(written)


@pytest.mark.parametrize(
    ("name", "location"),
    [
        ("unet.down_blocks.2.attentions.1_k10_hidden5120_auxk256_bs4096_lr0.0001/final/state_dict",
         "down_blocks.2.attentions.1"),
        ("sae-ckpts/unet.up_blocks.1.attentions.2/sae.safetensors", "up_blocks.1.attentions.2"),
        ("mid_block.attentions.0.update-image", "mid_block.attentions.0.update"),
        ("a/down_blocks.1.attentions.0.transformer_blocks.1.attn2.pt",
         "down_blocks.1.attentions.0.transformer_blocks.1.attn2"),
    ],
)  # fmt: skip
def test_names_of_files_and_folders(name, location):
    site = site_from_name(name)
    assert site is not None and site.location == location and site_from_name(site.name) == site


@pytest.mark.parametrize(
    "name", ["down_blocks.2.attentions.1.proj_in", "down_blocks.2.attentions.1.attn2", "my_mid_block.attentions.0x"]
)
def test_names_of_other_places_tell_none(name):
    assert site_from_name(name) is None


def test_late_places_width_and_order():
    assert parse_location("up_blocks.1.attentions.0").late_blocks(SDXL) == (0,)
    assert parse_location("up_blocks.1.attentions.0.transformer_blocks.0-1").late_blocks(SDXL) == (0, 1)
    assert parse_location("up_blocks.0.attentions.2").late_blocks(SDXL) == ()
    assert SDXL.width("mid_block.attentions.0.transformer_blocks", (3,)) == 1280
    order = [
        "up_blocks.0.attentions.1",
        "mid_block.attentions.0",
        "down_blocks.2.attentions.1",
        "down_blocks.2.attentions.0",
    ]
    saes = [
        SparseAutoencoder.from_tensors(
            tensors_of("topk"), ARCHITECTURES["topk"], name=path, site=parse_location(f"{path}.update")
        )
        for path in order
    ]  # fmt: skip
    assert [member.sae.name for member in SaeSet(saes, "set").members] == order[::-1]


def test_what_is_taken_where_nothing_says_where():
    wide = [Site(path.rpartition(".")[0], (int(path[-1]),), "update", "image") for path in (
        "down_blocks.2.attentions.0", "down_blocks.2.attentions.1", "mid_block.attentions.0",
        "up_blocks.0.attentions.0", "up_blocks.0.attentions.1", "up_blocks.0.attentions.2",
    )]  # fmt: skip
    assert first_text(FAMILY, SDXL) == picture_attention(FAMILY, SDXL) == wide


@pytest.mark.parametrize("step", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(13, 18), (16, 16), (9, 5)])
def test_a_mask_over_the_grid_of_a_site(size, step):
    """Means over squares of cells, of which the last reach over the edge and repeat what is there."""
    cells = torch.rand(size, generator=torch.Generator().manual_seed(1))
    mask = cells.repeat_interleave(8, 0).repeat_interleave(8, 1)[None]
    grid = tuple(-(-side // step) for side in size)
    found = token_weights(mask, *size, 1, grid=grid)[0].view(grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            under = [
                cells[min(row * step + i, size[0] - 1), min(column * step + j, size[1] - 1)]
                for i in range(step) for j in range(step)
            ]  # fmt: skip
            assert found[row, column] == pytest.approx(float(sum(under)) / step**2, abs=1e-5)


def test_a_mask_over_a_grid_that_another_node_resized():
    """As Kohya's deep shrink does: 16 × 16 cells as 6 × 6 tokens; half of the picture stays half."""
    mask = torch.zeros(1, 128, 128)
    mask[:, :, :64] = 1
    found = token_weights(mask, 16, 16, 1, grid=(6, 6))[0].view(6, 6)
    assert torch.equal(found[:, :3], torch.ones(6, 3)) and not found[:, 3:].any()


def test_crops_and_batches_on_a_sites_grid():
    """Two areas of 8 × 8 cells, each 2 × 2 tokens of 4 × 4 cells, in a picture of 16 × 16."""
    mask = torch.zeros(1, 128, 128)
    mask[:, :64] = 1
    moment = Moment(0.5, (0, 0), 0, 8, 8, (Crop(0, 0, 16, 16), Crop(4, 8, 16, 16)), own_grid=(2, 2))
    found = moment_weights(mask, moment, 4)
    assert moment.image_tokens == 4 and found.shape == (4, 4)
    assert torch.equal(found[:2], torch.ones(2, 4)) and torch.equal(found[2:], torch.tensor([[1.0, 1, 0, 0]] * 2))
