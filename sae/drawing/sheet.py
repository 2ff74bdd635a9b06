"""Contact sheets: rows and columns of pictures with captions, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP = 12
HEAD = 46  # pixels above the columns, for two lines
SIDE = 210  # pixels left of the rows
INK, GROUND, FRAME = (28, 32, 40), (247, 248, 250), (200, 204, 210)


def contact_sheet(rows: Sequence[Tensor], row_names: Sequence[str], column_names: Sequence[str]) -> Image.Image:
    """Rows of pictures (columns, 3, height, width) in 0..1 under their column names, which may have two lines."""
    columns, _, height, width = rows[0].shape
    size = (SIDE + columns * (width + GAP) + GAP, HEAD + len(rows) * (height + GAP) + GAP)
    sheet = Image.new("RGB", size, GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, name in enumerate(column_names):
        middle = SIDE + column * (width + GAP) + width // 2
        draw.multiline_text((middle, HEAD - 4), name, INK, font, anchor="md", align="center", spacing=2)
    for row, (pictures, name) in enumerate(zip(rows, row_names, strict=True)):
        top = HEAD + row * (height + GAP)
        draw.multiline_text((GAP, top + height // 2), name, INK, font, anchor="lm", spacing=3)
        for column, picture in enumerate(pictures):
            left = SIDE + column * (width + GAP)
            sheet.paste(to_image(picture), (left, top))
            draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FRAME)
    return sheet


def to_image(picture: Tensor) -> Image.Image:
    """A picture (3, height, width) in 0..1."""
    levels = (picture.clamp(0, 1).movedim(0, -1) * 255).round().numpy().astype(np.uint8)
    return Image.fromarray(levels)
