"""Pictures of Pillow and tensors, one way and the other."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def from_image(picture: Image.Image) -> Tensor:
    """(height, width, 3) in 0..1, of an RGB picture."""
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)


def to_image(picture: Tensor) -> Image.Image:
    """Of a picture (3, height, width) in 0..1."""
    levels = (picture.float().clamp(0, 1).movedim(0, -1) * 255).round().cpu().numpy().astype(np.uint8)
    return Image.fromarray(levels)
