"""Heat on a picture with a colour scale, and heat over the tokens of a text, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .pictures import from_image

LEAST_SIDE = 256  # smaller pictures are enlarged, so that the caption can be read
FOOT = 44  # pixels below the picture
LONG_FOOT = 76  # below bars with words
STRENGTH = 0.75  # of the colour where a feature fires most
# From nothing to the largest activation, dark to bright, so that it can be read without colours too.
RAMP = torch.tensor([[20, 12, 60], [106, 23, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]]) / 255
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])  # Rec. 601
GREYS = (0.15, 0.45)  # of black and white under the heat: no colour of the picture's and none as bright as the heat's
INK, GROUND, QUIET, BAR = (28, 32, 40), (255, 255, 255), (108, 116, 128), (66, 112, 214)


def heat_overlay(picture: Tensor, heat: Tensor, title: str) -> Tensor:
    """A picture (height, width, 3) in 0..1, greyed, under the heat (height, width) of one feature; its scale is below.

    Returns (height + 44, width, 3) in 0..1; enlarged where a side is below 256.
    """
    factor = -(-LEAST_SIDE // min(picture.shape[:2]))
    picture, heat = (_enlarged(part, factor) for part in (picture.float(), heat.unsqueeze(-1)))
    highest = float(heat.max())
    share = heat / highest if highest > 0 else torch.zeros_like(heat)
    mixed = greyed(picture) * (1 - STRENGTH * share) + ramp(share.squeeze(-1)) * STRENGTH * share
    return torch.cat([mixed, _foot(mixed.shape[1], title, highest)])


def greyed(picture: Tensor) -> Tensor:
    """A picture (..., 3) in 0..1 in dull greys, on which every colour of the scale shows, a red shape's included."""
    black, white = GREYS
    return (black + (white - black) * (picture @ LUMINANCE)).unsqueeze(-1).expand_as(picture)


def _enlarged(part: Tensor, factor: int) -> Tensor:
    return part.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def ramp(share: Tensor) -> Tensor:
    """Shares (...) in 0..1 to colours (..., 3)."""
    flat = share.clamp(0, 1).reshape(1, 1, -1)
    table = RAMP.T.unsqueeze(0)  # (1, 3, steps)
    place = flat * (table.shape[-1] - 1)
    low = place.floor().long().clamp(max=table.shape[-1] - 2).expand(1, 3, -1)
    part = place - low
    colours = table.gather(2, low) * (1 - part) + table.gather(2, low + 1) * part
    return colours.squeeze(0).T.reshape(*share.shape, 3)


def _foot(width: int, title: str, highest: float) -> Tensor:
    picture = Image.new("RGB", (width, FOOT), GROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    draw.text((8, 4), title, INK, font)
    draw.text((8, FOOT - 8), "0", QUIET, font, anchor="ls")
    draw.text((width - 8, FOOT - 8), f"{highest:.3g}", QUIET, font, anchor="rs")
    foot = from_image(picture)
    left, right = 24, max(25, width - 64)
    foot[FOOT - 18 : FOOT - 8, left:right] = ramp(torch.linspace(0, 1, right - left))
    return foot


def token_bars(heat: Tensor, title: str, words: Sequence[str] = (), width: int = 768, height: int = 220) -> Tensor:
    """Bars over the tokens (tokens,) of a text, (height, width, 3) in 0..1.

    With `words`, of the first tokens, those are shown and written below their bars; else the numbers of all.
    """
    shown = heat[: len(words)] if words else heat
    picture = Image.new("RGB", (width, height), GROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    highest, left, foot = float(shown.max()), 46, height - (LONG_FOOT if words else 30)
    draw.text((12, 8), title, INK, font)
    draw.text((left - 6, 36), f"{highest:.3g}", QUIET, font, anchor="rm")
    draw.text((left - 6, foot), "0", QUIET, font, anchor="rm")
    step = (width - left - 12) / len(shown)
    for token, value in enumerate(shown.tolist()):
        x = left + token * step
        top = foot - (foot - 36) * (value / highest if highest > 0 else 0)
        draw.rectangle((x, top, x + max(step - 2, 1), foot), BAR if value > 0 else QUIET)
    if words:
        _write_words(picture, words, left, step, foot + 6)
        return from_image(picture)
    for token in range(0, len(shown), max(1, len(shown) // 12)):
        draw.text((left + (token + 0.5) * step, foot + 6), str(token), QUIET, font, anchor="ma")
    return from_image(picture)


def _write_words(picture: Image.Image, words: Sequence[str], left: float, step: float, top: int) -> None:
    """Below their bars, from bottom to top where they are wider than those."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    level = max(draw.textlength(word, font) for word in words) + 4 <= step
    for token, word in enumerate(words):
        x = left + (token + 0.5) * step
        if level:
            draw.text((x, top), word, INK, font, anchor="ma")
            continue
        label = Image.new("RGB", (LONG_FOOT - 10, 16), GROUND)
        ImageDraw.Draw(label).text((label.width, 0), word, INK, font, anchor="ra")
        picture.paste(label.rotate(90, expand=True), (round(x) - 8, top))
