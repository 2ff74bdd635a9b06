"""The world of the Shapes demo model: its words, its prompts, and how a prompt is drawn.

A prompt says five things about a picture: the shape's colour, its kind, its place, its size, and the background.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace

import torch

PICTURE_SIZE = 128  # pixels, both sides

RGB = tuple[float, float, float]

COLOURS: dict[str, RGB] = {
    "red": (0.90, 0.10, 0.12),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.92, 0.15),
    "green": (0.10, 0.65, 0.20),
    "blue": (0.12, 0.25, 0.90),
    "purple": (0.60, 0.15, 0.75),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES: dict[str, tuple[float, float]] = {  # centre (x, y) as fractions of the picture
    "left": (0.30, 0.50),
    "right": (0.70, 0.50),
    "top": (0.50, 0.30),
    "bottom": (0.50, 0.70),
    "center": (0.50, 0.50),
}
SIZES: dict[str, float] = {"small": 0.15, "big": 0.25}  # radius as a fraction of the picture
BACKGROUNDS: dict[str, RGB] = {"white": (1.0, 1.0, 1.0), "grey": (0.5, 0.5, 0.5), "black": (0.0, 0.0, 0.0)}

SLOTS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "place": tuple(PLACES),
    "size": tuple(SIZES),
    "background": tuple(BACKGROUNDS),
}
WORDS: tuple[str, ...] = tuple(word for words in SLOTS.values() for word in words)
FILLERS = frozenset({"a", "an", "the", "on", "in", "at", "of", "with", "and", "background"})

CENTRE_JITTER = 0.008
RADIUS_JITTER = 0.03
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Prompt:
    """One word for each slot; None leaves that slot to the model."""

    colour: str | None = None
    shape: str | None = None
    place: str | None = None
    size: str | None = None
    background: str | None = None

    @property
    def words(self) -> tuple[str | None, ...]:
        return tuple(getattr(self, slot) for slot in SLOTS)

    def __str__(self) -> str:
        return " ".join(word for word in self.words if word is not None)

    def with_colour(self, colour: str) -> Prompt:
        return replace(self, colour=colour)

    @property
    def held_out(self) -> bool:
        """True for the fifth of all full prompts that training never sees."""
        digest = hashlib.sha256(str(self).encode()).digest()
        return digest[0] < HELD_OUT_SHARE * 256


def parse_prompt(text: str) -> Prompt:
    """Reads words in any order, such as "a small red square, left, on white"; a missing slot stays open."""
    found: dict[str, str] = {}
    for word in text.lower().replace(",", " ").replace(".", " ").split():
        slot = next((name for name, words in SLOTS.items() if word in words), None)
        if slot is None and word in FILLERS:
            continue
        if slot is None:
            known = "; ".join(f"{name}: {', '.join(words)}" for name, words in SLOTS.items())
            raise ValueError(f"text: the Shapes model does not know the word {word!r}; it knows {known}.")
        if slot in found:
            raise ValueError(f"text: it names two words for {slot}, {found[slot]!r} and {word!r}; give one.")
        found[slot] = word
    return Prompt(**found)


def read_prompt(text: str) -> Prompt:
    """As any text encoder reads a text: what it does not know is passed over, and the first word of a kind counts."""
    found: dict[str, str] = {}
    for word in text.lower().replace(",", " ").replace(".", " ").split():
        for slot, words in SLOTS.items():
            if word in words:
                found.setdefault(slot, word)
    return Prompt(**found)


def all_prompts() -> list[Prompt]:
    return [Prompt(*words) for words in itertools.product(*SLOTS.values())]


def held_out_prompts() -> list[Prompt]:
    return [prompt for prompt in all_prompts() if prompt.held_out]


def training_prompts() -> list[Prompt]:
    return [prompt for prompt in all_prompts() if not prompt.held_out]


def draw(
    prompts: list[Prompt], generator: torch.Generator | None = None, size: int = PICTURE_SIZE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws full prompts, with a little jitter of centre and radius when a generator is given.

    Returns pictures (batch, 3, size, size) in 0..1 and the shapes' coverage (batch, 1, size, size) in 0..1.
    """
    count = len(prompts)
    jitter = torch.zeros(count, 3) if generator is None else torch.rand(count, 3, generator=generator) * 2 - 1
    words = [_full(prompt) for prompt in prompts]
    centre = torch.tensor([PLACES[word["place"]] for word in words]) + CENTRE_JITTER * jitter[:, :2]
    radius = torch.tensor([SIZES[word["size"]] for word in words]) * (1 + RADIUS_JITTER * jitter[:, 2])
    coverage = draw_coverage([word["shape"] for word in words], centre, radius, size)
    colour = torch.tensor([COLOURS[word["colour"]] for word in words])[:, :, None, None]
    background = torch.tensor([BACKGROUNDS[word["background"]] for word in words])[:, :, None, None]
    return background + (colour - background) * coverage, coverage


def _full(prompt: Prompt) -> dict[str, str]:
    words = {slot: word for slot, word in zip(SLOTS, prompt.words, strict=True) if word is not None}
    if len(words) < len(SLOTS):
        missing = next(slot for slot in SLOTS if slot not in words)
        raise ValueError(f"prompts: only full prompts can be drawn, but '{prompt}' names no {missing}.")
    return words


def draw_coverage(shapes: list[str], centre: torch.Tensor, radius: torch.Tensor, size: int) -> torch.Tensor:
    """Antialiased coverage (batch, 1, size, size) of shapes with centre (batch, 2) and radius (batch,) in 0..1."""
    axis = (torch.arange(size) + 0.5) / size
    x = axis.view(1, 1, -1) - centre[:, 0].view(-1, 1, 1)
    y = axis.view(1, -1, 1) - centre[:, 1].view(-1, 1, 1)
    distance = torch.stack([_DISTANCES[s](x[i], y[i], radius[i]) for i, s in enumerate(shapes)])
    return (0.5 - distance * size).clamp(0, 1).unsqueeze(1)


# Signed distances to the outline, negative inside; areas are close to equal for one radius.
def _circle(x: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    return (x.square() + y.square()).sqrt() - r


def _square(x: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.88 * r


def _triangle(x: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    slope = 0.866 * x.abs() - 0.5 * y - 0.60 * r
    return torch.maximum(slope, y - 0.75 * r)


def _cross(x: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    across = torch.maximum(x.abs() - 1.05 * r, y.abs() - 0.38 * r)
    down = torch.maximum(x.abs() - 0.38 * r, y.abs() - 1.05 * r)
    return torch.minimum(across, down)


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross}
