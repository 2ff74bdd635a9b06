"""Taps: what a host calls with the tokens of a site, and how one stream is cut out of the tokens a block carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .moment import Moment
from .site import Site, Stream


class Tap(Protocol):
    """Gets x (batch, tokens, width) of its site's stream and returns it, or a changed copy."""

    @property
    def site(self) -> Site: ...

    def ready(self, batch: int, moment: Moment, device: torch.device) -> None:
        """Allocates, before the blocks of one call of the model run, what the tap keeps from its calls there."""

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Observer:
    """A tap that reads and changes nothing. `see` gets the SAE's input (batch, tokens, width) and the moment."""

    site: Site
    see: Callable[[Tensor, Moment], None]

    def ready(self, batch: int, moment: Moment, device: torch.device) -> None:
        """Nothing is known of what `see` keeps."""

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        self.see(x if activation is None else activation, moment)
        return x


def tap_tokens(tap: Tap, tokens: Tensor, moment: Moment, before: Tensor | None = None) -> Tensor:
    """Taps tokens that lie as [text; main picture; reference latents]; `before` is an update site's input."""
    start, end = _span(tap.site.stream, moment)
    return _tap_span(tap, tokens, start, end, moment, before)


def tap_image(tap: Tap, image: Tensor, moment: Moment, before: Tensor | None = None) -> Tensor:
    """Taps the image tokens of a double block; reference latents after the main picture stay as they are."""
    return _tap_span(tap, image, 0, moment.image_tokens, moment, before)


def tap_text(tap: Tap, text: Tensor, moment: Moment, before: Tensor | None = None) -> Tensor:
    return _tap_span(tap, text, 0, text.shape[1], moment, before)


def _span(stream: Stream, moment: Moment) -> tuple[int, int]:
    end = moment.text_tokens + moment.image_tokens
    return {"text": (0, moment.text_tokens), "image": (moment.text_tokens, end), "joint": (0, end)}[stream]


def _tap_span(tap: Tap, tokens: Tensor, start: int, end: int, moment: Moment, before: Tensor | None) -> Tensor:
    part = tokens[:, start:end]
    result = tap(part, moment, None if before is None else part - before[:, start:end])
    if result is part:
        return tokens
    return torch.cat([tokens[:, :start], result, tokens[:, end:]], dim=1)
