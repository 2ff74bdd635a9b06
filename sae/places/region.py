"""Regions: a mask on the picture as weights of the main picture's image tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .moment import Crop, Moment

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


LARGEST_STEP = 64  # cells that a token of a UNet covers each way are a power of two, and no more


def cells_of_a_token(size: tuple[int, int], grid: tuple[int, int]) -> int | None:
    """Latent cells that a token covers each way, a power of two; None where it is another number of them."""
    steps = (1 << power for power in range(LARGEST_STEP.bit_length()))
    return next((step for step in steps if tuple(-(-side // step) for side in size) == grid), None)


def token_weights(
    mask: Tensor, latent_height: int, latent_width: int, batch: int, crop: Crop | None = None,
    grid: tuple[int, int] | None = None,
) -> Tensor:  # fmt: skip
    """Mean of the mask under each image token: (batch, rows · columns), row-major. `grid` are a site's own.

    The mask may have any resolution, but the picture's aspect ratio to within one token, and one entry or one for each
    picture of the batch. It is laid over the whole picture, of which the latent may be a crop.
    """
    count, height, width = mask.shape
    crop = crop or Crop(0, 0, latent_height, latent_width)
    picture = crop.picture_height, crop.picture_width
    rows, columns = token_grid(*picture)
    if abs(height * columns - width * rows) > max(height, width):
        raise ValueError(
            f"mask: it is {width}×{height}, but the picture is {picture[1] * 8}×{picture[0] * 8} pixels; "
            "use a mask with the picture's proportions."
        )
    if count not in (1, batch):
        raise ValueError(f"mask: it has {count} entries, but the batch has {batch} pictures; use one mask or {batch}.")
    cells = functional.interpolate(mask.unsqueeze(1), picture, mode="area")
    cells = cells[..., crop.top : crop.top + latent_height, crop.left : crop.left + latent_width]
    size = latent_height, latent_width
    grid = rows, columns = grid or token_grid(*size)
    step = cells_of_a_token(size, grid)
    if step is None:  # another node resized what the block gets
        return functional.interpolate(cells, grid, mode="area").flatten(1).expand(batch, -1)
    pad = (0, columns * step - latent_width, 0, rows * step - latent_height)
    cells = functional.pad(cells, pad, mode="replicate")
    return functional.avg_pool2d(cells, step).flatten(1).expand(batch, -1)


def moment_weights(mask: Tensor, moment: Moment, batch: int) -> Tensor:
    """Mean of the mask under each image token of a call, (batch, image tokens); 0 in parts whose place is not known.

    Of a video the mask's entries are its frames, and one entry stands for all of them.
    """
    pictures, size = moment.rows_of_a_side(batch), (moment.latent_height, moment.latent_width)
    count = pictures
    if moment.latent_frames > 1:
        mask, count = frame_masks(mask, moment.latent_frames), moment.latent_frames

    def weights(crop: Crop | None = None) -> Tensor:
        found = token_weights(mask, *size, count, crop, moment.own_grid)
        return found if moment.latent_frames == 1 else found.reshape(1, -1).expand(pictures, -1)

    if not moment.crops:
        return weights().repeat(len(moment.sides), 1)
    nowhere = mask.new_zeros(pictures, moment.image_tokens)
    return torch.cat([nowhere if crop is None else weights(crop) for crop in moment.crops])


def frame_masks(mask: Tensor, frames: int) -> Tensor:
    """A mask for all frames, for each frame of the latent, or for each of the video, as one for each of the latent.

    Video VAEs keep the first frame by itself and put each following group of equal size into one.
    """
    count = len(mask)
    if count in (1, frames):
        return mask
    group, over = divmod(count - 1, frames - 1)
    if over or count < frames:
        raise ValueError(
            f"mask: it has {count} entries, but the video has {frames} frames in its latent; use one mask for all "
            f"frames, {frames}, or one for each frame of the video, such as {1 + 4 * (frames - 1)}."
        )
    return torch.cat([mask[:1], mask[1:].unflatten(0, (frames - 1, group)).mean(1)])
