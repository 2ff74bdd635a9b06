"""A bar chart of ranked features, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..finding.features import RankedFeature
from .pixels import from_image

WIDTH = 768
ROW = 34
MARGIN = 20
LABELS = 118  # pixels for the feature numbers
VALUES = 250  # pixels for the numbers and names behind the bars
NAME = 18  # characters of a name that are shown
INK, QUIET, BAR, GROUND = (28, 32, 40), (108, 116, 128), (66, 112, 214), (255, 255, 255)


def feature_chart(ranked: Sequence[RankedFeature], title: str, names: Mapping[int, str] | None = None) -> Tensor:
    """One bar a feature: its effect, its difference from the baseline, or its score. Returns (1, height, 768, 3)."""
    named = names or {}
    height = 2 * MARGIN + 2 * ROW + ROW * max(len(ranked), 1)
    picture = Image.new("RGB", (WIDTH, height), GROUND)
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(20), ImageFont.load_default(16)
    draw.text((MARGIN, MARGIN), title, INK, large)
    measure = _measure(ranked)
    draw.text((MARGIN, MARGIN + ROW - 4), f"bar: {measure} · then the share of tokens on which it fires", QUIET, small)
    values = [row.value for row in ranked]
    longest, room = max(values, default=0.0), WIDTH - 2 * MARGIN - LABELS - VALUES
    for position, (row, value) in enumerate(zip(ranked, values, strict=True)):
        top = MARGIN + (2 + position) * ROW
        left = MARGIN + LABELS
        length = room * value / longest if longest > 0 else 0
        draw.text((left - 12, top + ROW // 2), f"{row.feature}", INK, small, anchor="rm")
        draw.rectangle((left, top + 6, left + max(length, 1), top + ROW - 6), BAR)
        told = f"{value:.3g}  ·  {row.density:.0%}  {named.get(row.feature, '')[:NAME]}"
        draw.text((left + length + 10, top + ROW // 2), told, QUIET, small, anchor="lm")
    if not ranked:
        draw.text((MARGIN, MARGIN + 2 * ROW), "No feature fires.", INK, small)
    return from_image(picture).unsqueeze(0)


def _measure(ranked: Sequence[RankedFeature]) -> str:
    if any(row.effect is not None for row in ranked):
        return "effect on the prediction"
    return "difference from the baseline" if any(row.difference is not None for row in ranked) else "activation"
