"""Contact sheets: rows and columns of pictures with captions, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from .pictures import to_image

GAP = 12
HEAD = 46  # pixels above the columns, for two lines
SIDE = 210  # pixels left of the rows
LARGEST = 512  # pixels of a picture's longer side, less where the sheet has many
SHEET_PIXELS = 24e6
GREY = 0.9  # of a picture that did not come
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


class GrowingSheet:
    """A contact sheet whose pictures come one by one, each row's from left to right; it holds them at their final size.

    A picture is made smaller where its longer side is above LARGEST, or the sheet would have above SHEET_PIXELS.
    """

    def __init__(self, row_names: Sequence[str], column_names: Sequence[str]) -> None:
        self.row_names, self.column_names = row_names, column_names
        self.rows: list[list[Tensor]] = [[] for _ in row_names]
        self.side = min(LARGEST, int((SHEET_PIXELS / (len(row_names) * len(column_names))) ** 0.5))

    def add(self, row: int, picture: Tensor) -> None:
        """A picture (3, height, width) in 0..1."""
        factor = self.side / max(picture.shape[1:])
        if factor < 1:
            size = [round(side * factor) for side in picture.shape[1:]]
            picture = functional.interpolate(picture.unsqueeze(0), size, mode="area")[0]
        self.rows[row].append(picture)

    @property
    def begun(self) -> bool:
        """Whether there is a picture."""
        return any(self.rows)

    def image(self) -> Image.Image:
        """As far as it has come, with grey for the pictures that lack; ValueError before the first."""
        if not self.begun:
            raise ValueError("pictures: none came, so there is no sheet; add one first.")
        grey = torch.full_like(next(row[0] for row in self.rows if row), GREY)
        full = [[*row, *[grey] * (len(self.column_names) - len(row))] for row in self.rows]
        return contact_sheet([torch.stack(row) for row in full], self.row_names, self.column_names)
