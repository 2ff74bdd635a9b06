"""Between pixels as they lie on the disk and pictures as networks take them."""

from __future__ import annotations

import torch
from torch import Tensor


def to_pictures(pixels: Tensor) -> Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) in 0..1."""
    return pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()


def to_pixels(pictures: Tensor) -> Tensor:
    """(n, 3, h, w) in about 0..1 to (n, h, w, 3) uint8."""
    return pictures.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
