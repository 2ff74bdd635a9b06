"""Charts, drawn with Pillow: bars and a curve for reports, and the bars of ranked features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..finding.features import RankedFeature
from .pictures import from_image

WIDTH, HEIGHT, MARGIN, HEAD = 640, 300, 44, 40
INK, QUIET, BAR, GROUND = (28, 32, 40), (108, 116, 128), (66, 112, 214), (255, 255, 255)

# Of the chart of features: a row each.
TABLE_WIDTH = 768
ROW = 34
EDGE = 20
LABELS = 118  # pixels for the feature numbers
VALUES = 250  # pixels for the numbers and names behind the bars
NAME = 18  # characters of a name that are shown


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


def feature_chart(ranked: Sequence[RankedFeature], title: str, names: Mapping[int, str] | None = None) -> Tensor:
    """One bar a feature: its effect, its difference from the baseline, or its score. Returns (1, height, 768, 3)."""
    named = names or {}
    height = 2 * EDGE + 2 * ROW + ROW * max(len(ranked), 1)
    picture = Image.new("RGB", (TABLE_WIDTH, height), GROUND)
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(20), ImageFont.load_default(16)
    draw.text((EDGE, EDGE), title, INK, large)
    measure = _measure(ranked)
    draw.text((EDGE, EDGE + ROW - 4), f"bar: {measure} · then the share of tokens on which it fires", QUIET, small)
    values = [row.value for row in ranked]
    longest, room = max(values, default=0.0), TABLE_WIDTH - 2 * EDGE - LABELS - VALUES
    for position, (row, value) in enumerate(zip(ranked, values, strict=True)):
        top = EDGE + (2 + position) * ROW
        left = EDGE + LABELS
        length = room * value / longest if longest > 0 else 0
        draw.text((left - 12, top + ROW // 2), f"{row.feature}", INK, small, anchor="rm")
        draw.rectangle((left, top + 6, left + max(length, 1), top + ROW - 6), BAR)
        told = f"{value:.3g}  ·  {row.density:.0%}  {named.get(row.feature, '')[:NAME]}"
        draw.text((left + length + 10, top + ROW // 2), told, QUIET, small, anchor="lm")
    if not ranked:
        draw.text((EDGE, EDGE + 2 * ROW), "No feature fires.", INK, small)
    return from_image(picture).unsqueeze(0)


def _measure(ranked: Sequence[RankedFeature]) -> str:
    if any(row.effect is not None for row in ranked):
        return "effect on the prediction"
    return "difference from the baseline" if any(row.difference is not None for row in ranked) else "activation"
