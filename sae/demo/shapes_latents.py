"""Latents of the Shapes model: a fixed encoder and a small trained decoder.

The encoder averages the 128 px picture to 32 px and folds 2×2 pixels into channels: 12 of FLUX's 16 channels, the
last four stay zero. One latent cell covers 8 px, as in every FLUX autoencoder.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LATENT_CHANNELS = 16
USED_CHANNELS = 12
PIXELS_PER_CELL = 8
THUMBNAIL_FACTOR = 4  # 128 px picture to 32 px


def encode_pictures(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (batch, 3, h, w) in 0..1, h and w multiples of 8, to latents (batch, 16, h/8, w/8) in -1..1."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] % 8 or pictures.shape[3] % 8:
        raise ValueError(
            f"pictures: the Shapes encoder takes (batch, 3, height, width) with sides that are multiples of 8, "
            f"but got {tuple(pictures.shape)}."
        )
    thumbnails = functional.avg_pool2d(pictures, THUMBNAIL_FACTOR) * 2 - 1
    folded = functional.pixel_unshuffle(thumbnails, 2)
    return functional.pad(folded, (0, 0, 0, 0, 0, LATENT_CHANNELS - USED_CHANNELS))


class ShapesDecoder(nn.Module):
    """Latents (batch, 16, h, w) to pictures (batch, 3, 8h, 8w) in 0..1: thumbnails, sharpened and enlarged."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width, 3 * THUMBNAIL_FACTOR**2, 3, padding=1, padding_mode="replicate"),
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        thumbnails = thumbnails_of(latents)
        enlarged = functional.interpolate(
            thumbnails, scale_factor=THUMBNAIL_FACTOR, mode="bilinear", align_corners=False
        )
        detail = functional.pixel_shuffle(self.layers(thumbnails), THUMBNAIL_FACTOR)
        return ((enlarged + detail + 1) / 2).clamp(0, 1)


def thumbnails_of(latents: torch.Tensor) -> torch.Tensor:
    """The 3-channel picture that latents (batch, 16, h, w) hold: (batch, 3, 2h, 2w) in -1..1."""
    return functional.pixel_shuffle(latents[:, :USED_CHANNELS], 2).clamp(-1, 1)
