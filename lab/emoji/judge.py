"""The judge: a small network that knows real drawings again, and what it finds in drawn ones.

A drawing is right if, among the real drawings of all names in its style, the nearest is of its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from .drawings import Drawing
from .emoji_pictures import to_pictures
from .emoji_words import STYLES

SIDE = 64  # pixels of the thumbnails that the judge looks at
FEATURES = 128
WIDTHS = (32, 64, 128, 192)
TWINS = 0.004  # mean difference of two real drawings, in 0..1, below which they are one picture of two names


class Judge(nn.Module):
    """Thumbnails (n, 3, 64, 64) in 0..1 to unit vectors (n, 128)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTHS[-1] * 16, FEATURES))

    def forward(self, thumbnails: Tensor) -> Tensor:
        return functional.normalize(self.layers(1 - thumbnails), dim=-1)

    def save(self, path: Path) -> None:
        save_file({name: weight.half() for name, weight in self.state_dict().items()}, path)

    @classmethod
    def load(cls, path: Path) -> Judge:
        judge = cls()
        judge.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
        return judge.eval().requires_grad_(False)


@dataclass(frozen=True)
class Verdict:
    """Shares of drawings, 0..1. `tone`, `gender` are of those whose name says one; `style` is of the nearest of all."""

    count: int
    top1: float
    top5: float
    tone: float
    gender: float
    group: float
    style: float

    def __str__(self) -> str:
        shares = ("top1", "top5", "tone", "gender", "group", "style")
        return f"{self.count} drawings: " + ", ".join(f"{name} {100 * getattr(self, name):.1f} %" for name in shares)


@torch.no_grad()
def features_of(judge: Judge, thumbnails: Tensor, batch: int = 256) -> Tensor:
    """(n, 128) of thumbnails (n, 3, 64, 64)."""
    return torch.cat([judge(part) for part in thumbnails.split(batch)])


def thumbnails_of(pixels: Tensor) -> Tensor:
    """(n, 128, 128, 3) uint8 to (n, 3, 64, 64) in 0..1, by averaging."""
    return torch.cat([functional.avg_pool2d(to_pictures(part), part.shape[1] // SIDE) for part in pixels.split(256)])


def decide(drawn: Tensor, wanted: Sequence[int], known: Tensor, drawings: Sequence[Drawing], twins: Tensor) -> Verdict:
    """Judges features drawn (n, 128) of drawings that should be those numbered `wanted` of `drawings`.

    `known` (drawings, 128) are the real ones' features; `twins` (drawings,) holds one number for each picture, the same
    where two names share one.
    """
    styles = torch.tensor([STYLES.index(drawing.style) for drawing in drawings])
    likeness = drawn @ known.T  # (n, drawings)
    of_style = styles[None] == styles[list(wanted)][:, None]
    nearest = likeness.masked_fill(~of_style, -2).topk(5, dim=1).indices
    right = twins[nearest] == twins[list(wanted)][:, None]
    found = [drawings[number] for number in nearest[:, 0].tolist()]
    asked = [drawings[number] for number in wanted]
    overall = [drawings[number].style for number in likeness.argmax(dim=1).tolist()]
    return Verdict(
        count=len(asked),
        top1=right[:, 0].float().mean().item(),
        top5=right.any(dim=1).float().mean().item(),
        tone=_share([(a.tone, b.tone) for a, b in zip(asked, found, strict=True)]),
        gender=_share([(a.gender, b.gender) for a, b in zip(asked, found, strict=True)]),
        group=_share([(a.group, b.group) for a, b in zip(asked, found, strict=True)]),
        style=_share([(a.style, style) for a, style in zip(asked, overall, strict=True)]),
    )


def find_twins(thumbnails: Tensor, styles: Sequence[str], candidates: int = 8) -> Tensor:
    """One number (n,) for each of thumbnails (n, 3, 64, 64), the same for those of one style that look the same."""
    small = functional.avg_pool2d(thumbnails, 4).flatten(1)
    numbers = torch.arange(len(thumbnails))
    for style in sorted(set(styles)):
        rows = torch.tensor([number for number, other in enumerate(styles) if other == style])
        close = torch.cdist(small[rows], small[rows]).topk(min(candidates, len(rows)), largest=False).indices
        for row, others in zip(rows.tolist(), rows[close].tolist(), strict=True):
            for other in others:
                if other > row and (thumbnails[row] - thumbnails[other]).abs().mean() < TWINS:
                    numbers[numbers == numbers[other]] = numbers[row].clone()
    return numbers


def _share(pairs: list[tuple[str | None, str | None]]) -> float:
    """How often the second is the first, of those where the first says something."""
    said = [wanted == found for wanted, found in pairs if wanted is not None]
    return sum(said) / len(said) if said else float("nan")
