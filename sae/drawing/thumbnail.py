"""Small pictures for tables: encoded so that hundreds of them fit a megabyte."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from torch import Tensor

from .pixels import to_image

SIDE = 80  # of the longer side, in pixels
QUALITY = 75


def thumbnail(picture: Tensor) -> bytes:
    """A picture (3, height, width) in 0..1 as WebP, no larger than SIDE."""
    image = to_image(picture)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()
