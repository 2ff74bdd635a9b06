"""A tap at one block of one call of the model, and how its stream is cut out of the tokens that the block carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ....places import stream_taps as recorded
from ....places.families import Stack
from ....places.moment import Moment
from ....places.reach import CountedTap
from ..memory import without_record

# What a tap returns replaces the block's own output, and so outlives the block's call.
tap_image, tap_text, tap_tokens = map(without_record, (recorded.tap_image, recorded.tap_text, recorded.tap_tokens))
tap_map = without_record(recorded.tap_map)


@dataclass(frozen=True)
class Placed:
    """`moment` is what is known before the block runs; `filled` the picture's tokens with those that fill them up.

    `blocks` are the model's own, among which another node may put a compiled one before they run.
    """

    tap: CountedTap
    stack: Stack
    blocks: Sequence[nn.Module] | Mapping[int, nn.Module]
    moment: Moment
    filled: int

    @property
    def block(self) -> nn.Module:
        return self.blocks[self.tap.block]

    @property
    def kept(self) -> str:
        """The key of the stream's tensor among what a slot gets and returns."""
        return "txt" if self.stack.carries == "apart" and self.tap.site.stream == "text" else "img"

    def enter(self) -> None:
        """The block begins."""
        self.tap.enter(self.moment.sigma)

    def now(self, length: int, options: Mapping[str, Any] | None) -> Moment:
        """The moment with the text's length in a joint sequence of `length` tokens, or the grid, as the block tells."""
        if self.stack.own_grid:
            rows, columns = (options or {}).get("activations_shape", (0, 0))[-2:]
            return replace(self.moment, own_grid=(rows, columns) if rows * columns == length else (1, length))
        if self.stack.text_end == "before the picture":
            return replace(self.moment, text_tokens=length - self.filled - self.moment.lead)
        image_slice = (options or {}).get("img_slice")
        return replace(self.moment, text_tokens=image_slice[0]) if image_slice else self.moment

    def change(self, tokens: Tensor, moment: Moment, before: Tensor | None = None) -> Tensor:
        """Taps (batch, tokens, width), or a picture as (batch, frames, rows, columns, width); of a UNet also as
        (batch, width, rows, columns)."""
        if tokens.ndim == 4 and self.stack.own_grid:
            return tap_map(self.tap, tokens, moment, before)
        if tokens.ndim > 3:
            flat = tokens.flatten(1, -2)
            changed = self.change(flat, moment, None if before is None else before.flatten(1, -2))
            return tokens if changed is flat else changed.view_as(tokens)
        if self.stack.carries == "joint":
            return tap_tokens(self.tap, tokens, moment, before)
        return (tap_text if self.kept == "txt" else tap_image)(self.tap, tokens, moment, before)
