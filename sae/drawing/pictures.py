"""Pictures of Pillow and tensors, one way and the other."""

from __future__ import annotations

from io import BytesIO

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


SIDE = 80  # of the longer side, in pixels
QUALITY = 75


def thumbnail(picture: Tensor) -> bytes:
    """A picture (3, height, width) in 0..1 as WebP, no larger than SIDE."""
    image = to_image(picture)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()
