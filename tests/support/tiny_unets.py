"""Tiny random UNets of ComfyUI's own class, in the shapes of Stable Diffusion 1, 2, SDXL and its refiner.

16 × 16 latent cells: 4 × 4 tokens a quarter down, 2 × 2 in the middle of four levels, 4 × 4 in that of three.
"""

from __future__ import annotations

import comfy.supported_models

from tiny_case import TEXT_WIDTH, Case, Place, make


def _unet(config, depths, middle, mult=(1, 1, 2, 2), **more):
    """Two residual blocks a level; `depths` are the transformer blocks in each transformer of a level."""
    return lambda: make(
        config, image_size=32, use_checkpoint=False, use_spatial_transformer=True, legacy=False, in_channels=4,
        out_channels=4, model_channels=32, channel_mult=list(mult), num_res_blocks=[2] * len(mult),
        transformer_depth=[depth for depth in depths for _ in range(2)], transformer_depth_middle=middle,
        transformer_depth_output=[depth for depth in depths for _ in range(3)], context_dim=TEXT_WIDTH,
        **{"num_heads": 2, "num_head_channels": -1, **more},
    )  # fmt: skip


_BY_HEADS = {"num_heads": -1, "num_head_channels": 32}


def _vector(width):
    """Of SDXL: pooled text, and sizes of 256 numbers each."""
    return {"num_classes": "sequential", "adm_in_channels": width}


def _attentions(*rows):
    """Path in diffusers, path in ComfyUI, transformer blocks, width."""
    return {"attentions": rows}


def _unet_places(down, tokens, middle_tokens, up):
    """`down` and `up` are a transformer's paths in diffusers and ComfyUI, with `tokens` in each."""
    (down, down_core), (up, up_core) = down, up
    all_of, middle = ((0, tokens),), ((0, middle_tokens),)
    inside, core = f"{down}.transformer_blocks.0", f"{down_core}.transformer_blocks.0"
    return (
        Place(down, "image", down_core, all_of, given=0, as_map=True),
        Place("mid_block.attentions.0.update", "image", "middle_block.1", middle, given=0, as_map=True),
        Place(f"{down}.input", "image", down_core, all_of, given=0, as_map=True),
        Place(f"{inside}.input", "image", core, all_of, given=0),
        Place("middle_block.1", "image", "middle_block.1", middle, given=0, as_map=True),
        Place(f"{up}.update", "image", up_core, all_of, given=0, as_map=True),
        Place(f"unet.{up}", "image", up_core, all_of, given=0, as_map=True),
        Place(inside, "image", core, all_of, given=0),
        Place(f"{core}.update", "image", core, all_of, given=0),
        Place(f"{inside}.attn1", "image", f"{core}.attn1", all_of),
        Place(f"{up}.transformer_blocks.0.attn2", "image", f"{up_core}.transformer_blocks.0.attn2", all_of),
        Place(f"{inside}.ff", "image", f"{core}.ff", all_of),
    )


_SD_ATTENTIONS = _attentions(
    ("down_blocks.0.attentions.0", "input_blocks.1.1", 1, 32),
    ("down_blocks.0.attentions.1", "input_blocks.2.1", 1, 32),
    ("down_blocks.1.attentions.0", "input_blocks.4.1", 1, 32),
    ("down_blocks.1.attentions.1", "input_blocks.5.1", 1, 32),
    ("down_blocks.2.attentions.0", "input_blocks.7.1", 1, 64),
    ("down_blocks.2.attentions.1", "input_blocks.8.1", 1, 64),
    ("mid_block.attentions.0", "middle_block.1", 1, 64),
    ("up_blocks.1.attentions.0", "output_blocks.3.1", 1, 64),
    ("up_blocks.1.attentions.1", "output_blocks.4.1", 1, 64),
    ("up_blocks.1.attentions.2", "output_blocks.5.1", 1, 64),
    ("up_blocks.2.attentions.0", "output_blocks.6.1", 1, 32),
    ("up_blocks.2.attentions.1", "output_blocks.7.1", 1, 32),
    ("up_blocks.2.attentions.2", "output_blocks.8.1", 1, 32),
    ("up_blocks.3.attentions.0", "output_blocks.9.1", 1, 32),
    ("up_blocks.3.attentions.1", "output_blocks.10.1", 1, 32),
    ("up_blocks.3.attentions.2", "output_blocks.11.1", 1, 32),
)  # fmt: skip
_XL_ATTENTIONS = _attentions(
    ("down_blocks.1.attentions.0", "input_blocks.4.1", 1, 32),
    ("down_blocks.1.attentions.1", "input_blocks.5.1", 1, 32),
    ("down_blocks.2.attentions.0", "input_blocks.7.1", 2, 64),
    ("down_blocks.2.attentions.1", "input_blocks.8.1", 2, 64),
    ("mid_block.attentions.0", "middle_block.1", 2, 64),
    ("up_blocks.0.attentions.0", "output_blocks.0.1", 2, 64),
    ("up_blocks.0.attentions.1", "output_blocks.1.1", 2, 64),
    ("up_blocks.0.attentions.2", "output_blocks.2.1", 2, 64),
    ("up_blocks.1.attentions.0", "output_blocks.3.1", 1, 32),
    ("up_blocks.1.attentions.1", "output_blocks.4.1", 1, 32),
    ("up_blocks.1.attentions.2", "output_blocks.5.1", 1, 32),
)  # fmt: skip
_REFINER_ATTENTIONS = _attentions(
    ("down_blocks.1.attentions.0", "input_blocks.4.1", 1, 32),
    ("down_blocks.1.attentions.1", "input_blocks.5.1", 1, 32),
    ("down_blocks.2.attentions.0", "input_blocks.7.1", 2, 64),
    ("down_blocks.2.attentions.1", "input_blocks.8.1", 2, 64),
    ("mid_block.attentions.0", "middle_block.1", 2, 64),
    ("up_blocks.1.attentions.0", "output_blocks.3.1", 2, 64),
    ("up_blocks.1.attentions.1", "output_blocks.4.1", 2, 64),
    ("up_blocks.1.attentions.2", "output_blocks.5.1", 2, 64),
    ("up_blocks.2.attentions.0", "output_blocks.6.1", 1, 32),
    ("up_blocks.2.attentions.1", "output_blocks.7.1", 1, 32),
    ("up_blocks.2.attentions.2", "output_blocks.8.1", 1, 32),
)  # fmt: skip
_SD_DOWN, _SD_UP = ("down_blocks.2.attentions.1", "input_blocks.8.1"), ("up_blocks.1.attentions.2", "output_blocks.5.1")
# 16×16 latent cells: 4×4 tokens a quarter down, 2×2 in the middle of four levels, 4×4 in that of three
_SD_PLACES = _unet_places(_SD_DOWN, 16, 4, _SD_UP)
_XL_PLACES = _unet_places(_SD_DOWN, 16, 16, ("up_blocks.0.attentions.1", "output_blocks.1.1"))
UNETS = ("Stable Diffusion 1", "Stable Diffusion 2", "SDXL", "SDXL Refiner")

UNET_CASES = (
    Case(
        "Stable Diffusion 1", _unet(comfy.supported_models.SD15, (1, 1, 1, 0), 1), (1, 4, 16, 16), _SD_PLACES,
        width=64, depth=_SD_ATTENTIONS, slot=None,
    ),
    Case(
        "Stable Diffusion 2", _unet(comfy.supported_models.SD20, (1, 1, 1, 0), 1, **_BY_HEADS), (1, 4, 16, 16),
        _SD_PLACES, width=64, depth=_SD_ATTENTIONS, slot=None,
    ),
    Case(
        "SDXL",
        _unet(comfy.supported_models.SDXL, (0, 1, 2), 2, (1, 1, 2), **_BY_HEADS, **_vector(1280 + 6 * 256)),
        (1, 4, 16, 16), _XL_PLACES, width=64, pooled_width=1280, depth=_XL_ATTENTIONS, slot=None,
    ),
    Case(
        "SDXL Refiner",
        _unet(comfy.supported_models.SDXLRefiner, (0, 1, 2, 0), 2, **_BY_HEADS, **_vector(1280 + 5 * 256)),
        (1, 4, 16, 16), _SD_PLACES, width=64, pooled_width=1280, depth=_REFINER_ATTENTIONS, slot=None,
    ),
)  # fmt: skip
