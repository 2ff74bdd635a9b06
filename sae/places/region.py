"""Regions: a mask on the picture as weights of the main picture's image tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PATCH = 2  # latent cells a token covers, each way


def token_grid(latent_height: int, latent_width: int) -> tuple[int, int]:
    """Rows and columns of image tokens; odd latents are padded up to the patch size."""
    return -(-latent_height // PATCH), -(-latent_width // PATCH)


def check_mask(mask: Tensor) -> Tensor:
    """A mask as (batch, height, width) float32 in 0..1; ValueError for anything else."""
    if mask.ndim == 2:
        mask = mask.unsqueeze(0)
    if mask.ndim != 3 or 0 in mask.shape:
        raise ValueError(f"mask: its shape is {tuple(mask.shape)}, but (batch, height, width) is needed.")
    mask = mask.float()
    if not torch.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
        raise ValueError("mask: it has values outside 0 to 1; every value must lie between 0 (leave) and 1 (steer).")
    return mask


def token_weights(mask: Tensor, latent_height: int, latent_width: int, batch: int) -> Tensor:
    """Mean of the mask under each image token: (batch, rows · columns), row-major.

    The mask may have any resolution, but the picture's aspect ratio to within one token, and one entry or one for each
    picture of the batch.
    """
    count, height, width = mask.shape
    rows, columns = token_grid(latent_height, latent_width)
    if abs(height * columns - width * rows) > max(height, width):
        raise ValueError(
            f"mask: it is {width}×{height}, but the picture is {latent_width * 8}×{latent_height * 8} pixels; "
            "use a mask with the picture's proportions."
        )
    if count not in (1, batch):
        raise ValueError(f"mask: it has {count} entries, but the batch has {batch} pictures; use one mask or {batch}.")
    cells = functional.interpolate(mask.unsqueeze(1), (latent_height, latent_width), mode="area")
    pad = (0, columns * PATCH - latent_width, 0, rows * PATCH - latent_height)
    cells = functional.pad(cells, pad, mode="replicate")
    return functional.avg_pool2d(cells, PATCH).flatten(1).expand(batch, -1)
