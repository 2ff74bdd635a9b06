"""Bars and a curve for reports, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, MARGIN, HEAD = 640, 300, 44, 40
INK, QUIET, BAR, GROUND = (28, 32, 40), (108, 116, 128), (66, 112, 214), (255, 255, 255)


def bars(values: Sequence[float], names: Sequence[str], title: str) -> Image.Image:
    """One upright bar a value, with its name below and its number above."""
    picture, draw, small = _begin(title)
    largest, slot = max([*values, 1e-12]), (WIDTH - 2 * MARGIN) / max(1, len(values))
    bottom, room = HEIGHT - MARGIN, HEIGHT - MARGIN - HEAD - 20
    for place, (value, name) in enumerate(zip(values, names, strict=True)):
        left = MARGIN + place * slot
        top = bottom - room * value / largest
        draw.rectangle((left + 6, top, left + slot - 6, bottom), BAR)
        draw.text((left + slot / 2, top - 10), f"{value:g}", INK, small, anchor="mm")
        draw.text((left + slot / 2, bottom + 14), name, QUIET, small, anchor="mm")
    return picture


def curve(across: Sequence[float], up: Sequence[float], title: str) -> Image.Image:
    """A line through points; both axes from the smallest to the largest value."""
    picture, draw, small = _begin(title)
    low, high, first, last = min(up), max(up), across[0], across[-1]
    bottom, room = HEIGHT - MARGIN, HEIGHT - MARGIN - HEAD - 10
    points = [
        (
            MARGIN + (WIDTH - 2 * MARGIN) * (x - first) / ((last - first) or 1),
            bottom - room * (y - low) / ((high - low) or 1),
        )
        for x, y in zip(across, up, strict=True)
    ]
    draw.line(points if len(points) > 1 else points * 2, BAR, 2)
    draw.text((MARGIN, bottom + 14), f"{first:g}", QUIET, small, anchor="lm")
    draw.text((WIDTH - MARGIN, bottom + 14), f"{last:g}", QUIET, small, anchor="rm")
    draw.text((4, bottom), f"{low:.2g}", QUIET, small, anchor="lm")
    draw.text((4, bottom - room), f"{high:.2g}", QUIET, small, anchor="lm")
    return picture


def _begin(title: str) -> tuple[Image.Image, ImageDraw.ImageDraw, ImageFont.ImageFont | ImageFont.FreeTypeFont]:
    picture = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 12), title, INK, ImageFont.load_default(18))
    return picture, draw, ImageFont.load_default(13)
