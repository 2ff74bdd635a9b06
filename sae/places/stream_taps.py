"""Taps: what a host calls with the tokens of a site, and how one stream is cut out of the tokens a block carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .moment import Moment
from .site import Site


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
    """Taps tokens that lie as [text; lead; main picture; reference latents].

    `before` is the input of the block at an update site, of the MLP at a transcoder's.
    """
    picture = moment.text_tokens + moment.lead
    spans = {
        "text": [(0, moment.text_tokens)],
        "image": [(picture, picture + moment.image_tokens)],
        "joint": [(0, moment.text_tokens), (picture, picture + moment.image_tokens)],
    }[tap.site.stream]
    if tap.site.stream == "joint" and not moment.lead:
        spans = [(0, picture + moment.image_tokens)]
    return _tap_spans(tap, tokens, spans, moment, before)


def tap_image(tap: Tap, image: Tensor, moment: Moment, before: Tensor | None = None) -> Tensor:
    """Taps the main picture among image tokens; reference latents around it stay as they are."""
    return _tap_spans(tap, image, [(moment.lead, moment.lead + moment.image_tokens)], moment, before)


def tap_map(tap: Tap, x: Tensor, moment: Moment, before: Tensor | None = None) -> Tensor:
    """Taps a picture as (batch, width, rows, columns), whose tokens lie row by row; the moment's grid is its own."""
    here = replace(moment, own_grid=(x.shape[-2], x.shape[-1]))
    tokens = x.flatten(2).transpose(1, 2)
    changed = tap_image(tap, tokens, here, None if before is None else before.flatten(2).transpose(1, 2))
    if changed is tokens:
        return x
    # Laid in memory as x was: kernels behind it round otherwise in another order, in rows too that were left alone.
    return torch.empty_like(x).copy_(changed.transpose(1, 2).unflatten(2, x.shape[-2:]))


def tap_text(tap: Tap, text: Tensor, moment: Moment, before: Tensor | None = None) -> Tensor:
    return _tap_spans(tap, text, [(0, text.shape[1])], moment, before)


def _tap_spans(
    tap: Tap, tokens: Tensor, spans: Sequence[tuple[int, int]], moment: Moment, before: Tensor | None
) -> Tensor:
    """Taps the tokens of the spans, in order, as one sequence; the others stay as they are."""
    part = _cut(tokens, spans)
    result = tap(part, moment, None if before is None else _activation(tap, part, _cut(before, spans)))
    if result is part:
        return tokens
    if part.shape[1] == tokens.shape[1]:
        return result  # nothing lies around it
    pieces, rest, end = [], result, 0
    for start, stop in spans:
        stop = min(stop, tokens.shape[1])
        pieces += [tokens[:, end:start], rest[:, : stop - start]]
        rest, end = rest[:, stop - start :], stop
    return torch.cat([*pieces, tokens[:, end:]], dim=1)


def _activation(tap: Tap, part: Tensor, before: Tensor) -> Tensor:
    """What is read where that is not what is changed: a block's update, or what goes into an MLP."""
    return before if tap.site.point == "transcoder" else part - before


def _cut(tokens: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    pieces = [tokens[:, start:stop] for start, stop in spans]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
