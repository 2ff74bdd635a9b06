"""A region painted with a brush, as the JSON text that a panel writes: strokes in shares of the picture, as a mask.

An object with `strokes`, a list of objects with `points`, the numbers x, y, x, y … from 0 (left, top) to 1, `size`,
the brush's diameter as a share of the picture's width, and `erase` (false), which takes away instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..files.quote import quoted
from ..files.small_json import is_number, parse_object

EMPTY = '{"strokes": []}'
MOST_STROKES = 2000
MOST_CHARACTERS = 2_000_000
FINER = 4  # times the picture's pixels, so that edges are soft
LARGEST = 2.0  # a share of the picture, for points and sizes: the brush may leave it


def painted(text: str, height: int, width: int) -> Tensor:
    """The mask (height, width) in 0..1 of what is painted; ValueError, in one sentence, for any other text."""
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise ValueError(f"strokes: a JSON text of up to {MOST_CHARACTERS:,} characters is needed, such as {EMPTY}.")
    strokes = parse_object(text, "strokes: the text").get("strokes")
    if not isinstance(strokes, list) or len(strokes) > MOST_STROKES:
        raise ValueError(f"strokes: a list of up to {MOST_STROKES} strokes is needed, such as {EMPTY}.")
    finer = max(1, min(FINER, 4096 // max(height, width)))
    canvas = Image.new("L", (width * finer, height * finer), 0)
    draw = ImageDraw.Draw(canvas)
    for place, stroke in enumerate(strokes, 1):
        _draw(draw, stroke, f"strokes: stroke {place}", (width * finer, height * finer))
    mask = canvas.resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(mask)).float() / 255


def _draw(draw: ImageDraw.ImageDraw, stroke: Any, where: str, size: tuple[int, int]) -> None:
    if not isinstance(stroke, dict) or not set(stroke) <= {"points", "size", "erase"}:
        raise ValueError(f"{where} must be an object with points, size and, optional, erase.")
    points, brush, erase = stroke.get("points"), stroke.get("size", 0), stroke.get("erase", False)
    if not isinstance(points, list) or len(points) < 2 or len(points) % 2:
        raise ValueError(f"{where}: points must be the numbers x, y, x, y … of one point or more.")
    wrong = [value for value in (*points, brush) if not is_number(value, LARGEST)]
    if wrong or brush <= 0 or not isinstance(erase, bool):
        came = quoted(wrong[0] if wrong else brush)
        raise ValueError(f"{where}: {came} came where a share of the picture is needed.")
    (width, height), ink = size, 0 if erase else 255
    line = [(x * width, y * height) for x, y in zip(points[::2], points[1::2], strict=True)]
    radius = brush * width / 2
    if len(line) > 1:
        draw.line(line, fill=ink, width=max(1, round(2 * radius)))
    for x, y in line:  # round ends and corners
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
