"""One steering at one site: where on the picture, when during sampling, on which side of guidance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..dictionary.directions import check_place
from ..places.moment import COND, EVERY_SIGMA, SIDES, UNCOND, WHOLE_RUN, Moment, Schedule, Side, SigmaWindow
from ..places.region import check_mask, moment_weights
from ..places.site import Site
from .delta import Steering
from .fast.one_row import held_sum
from .methods import METHODS
from .methods.steering_method import SteeringMethod
from .record import SteeringRecord

# factor of Δ on the cond and on the uncond rows
_FACTORS: dict[Side, tuple[float, float]] = {
    "both": (1.0, 1.0),
    "cond": (1.0, 0.0),
    "uncond": (0.0, 1.0),
    "opposite": (1.0, -1.0),
}


@dataclass(frozen=True)
class Intervention:
    """A steering, its site, when it acts, on which side, and on which part of the picture. Holds no state of a run.

    With `keep_norm` a steered token keeps its length: x' = (x + Δ) ‖x‖ / ‖x + Δ‖.
    """

    steering: Steering
    site: Site
    schedule: Schedule = WHOLE_RUN
    side: Side = "both"
    mask: Tensor | None = None
    keep_norm: bool = False

    def __post_init__(self) -> None:
        check_place(self.steering.sae, self.site)
        if self.site.point == "transcoder" and _needs_one_tensor(METHODS[self.steering.method]):
            others = ", ".join(name for name, method in METHODS.items() if not _needs_one_tensor(method))
            raise ValueError(
                f"method: {self.steering.method!r} needs one and the same tensor to read and to change, and a "
                f"transcoder reads another; use one of {others}."
            )
        if self.side not in SIDES:
            raise ValueError(f"apply_to: {self.side!r} is not a side; use one of {', '.join(SIDES)}.")
        if self.mask is None:
            return
        if self.site.stream == "text":
            raise ValueError(
                "mask: it marks a part of the picture, but the stream is text; use the image or joint stream, or no "
                "mask."
            )
        object.__setattr__(self, "mask", check_mask(self.mask))

    def begin(self, record: SteeringRecord, window: SigmaWindow = EVERY_SIGMA) -> ActiveIntervention:
        """This intervention for one run. What the run caches on a device dies with the returned object."""
        return ActiveIntervention(self, replace(self.steering, _cache={}), record, window)


def _needs_one_tensor(method: SteeringMethod) -> bool:
    """Whether it pushes a token as far as its own length says, and reads codes of that same token."""
    return method.pushes and method.reads_codes


class _Steered(NamedTuple):
    """Which rows of a batch are steered, on one device."""

    rows: Tensor | None  # their numbers (n,); None where it is all of them
    factors: Tensor | None  # (n, 1): of Δ; None where it is 1 for all


@dataclass(frozen=True)
class ActiveIntervention:
    """An intervention in one run: the tap that hosts call with the tokens of its site."""

    intervention: Intervention
    steering: Steering
    record: SteeringRecord
    window: SigmaWindow
    _regions: dict[tuple[int, Moment, torch.device], Tensor] = field(default_factory=dict, repr=False)
    _steered_rows: dict[tuple[tuple[float, ...], torch.device], _Steered] = field(default_factory=dict, repr=False)
    _ready: set[torch.device] = field(default_factory=set, repr=False)

    @property
    def site(self) -> Site:
        return self.intervention.site

    def ready(self, batch: int, moment: Moment, device: torch.device) -> None:
        """Allocates what outlives a call of this moment, for a batch of this many rows. Safe across threads."""
        factors = () if self._idle(moment) else self._factors(batch, moment)
        if not any(factors):
            return
        self._rows(factors, device)
        if device not in self._ready:
            self.steering.ready(device, moment.sigma)
            self._ready.add(device)
        if self.intervention.mask is not None:
            self._region(self.intervention.mask, batch, moment, device)
        self.record.reserve(device, len(self.site.blocks))

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        """Steers one stream's tokens x (batch, tokens, d_in) and returns them, in x's dtype; x itself stays.

        The image stream is the main picture's tokens, the joint one text and main picture. `activation` is what the SAE
        reads where that is not x: at an update site, output - input.

        With a mask, rows that are a part of the picture whose place is not known stay as they are, and the record
        tells so: a region at the wrong place would be worse, and so would be steering what the mask protects.
        """
        if self._idle(moment) or not x.numel():  # a stream may have no tokens
            return x
        factors = self._factors(x.shape[0], moment)
        if not any(factors):
            return x
        rows, weight = self._rows(factors, x.device)
        chosen = x if rows is None else x[rows]
        reads = chosen if activation is None else activation if rows is None else activation[rows]
        if self.intervention.mask is not None:
            region = self._region(self.intervention.mask, x.shape[0], moment, x.device)
            text = region.new_ones(x.shape[0], x.shape[1] - region.shape[1])  # of a joint stream: it keeps its weight
            region = torch.cat([text, region], dim=1)
            region = region if rows is None else region[rows]
            weight = region if weight is None else weight * region
        steered = self._steered(chosen, reads, weight, moment.sigma)
        return steered if rows is None else x.index_copy(0, rows, steered)

    def _steered(self, x: Tensor, reads: Tensor, weight: Tensor | None, sigma: float) -> Tensor:
        """x + weight · Δ, noted; `weight` (rows, tokens or 1)."""
        weight = None if weight is None else weight.expand(x.shape[:2])
        if self.site.point == "transcoder" and not self.steering.reads:
            reads = x  # what needs no codes is measured by what it changes
        turned = self.intervention.keep_norm
        push = None if turned else self.steering.push(reads, None if reads is x else x)
        if push is not None:
            pushed = replace(push, weight=weight).added(x)
            self.record.note(sigma, x, pushed.change, pushed.steered, weight, str(self.site), held=pushed.held)
            return pushed.steered
        change = self.steering.change(reads, sigma)
        delta = change.delta if weight is None else change.delta * weight.unsqueeze(-1)
        delta = _turning(x.float(), delta) if turned else delta
        steered, held = held_sum(x, delta)
        self.record.note(
            sigma, x, delta, steered, weight, str(self.site), self.steering.presence_of, change.presence, held
        )
        return steered

    def _factors(self, batch: int, moment: Moment) -> tuple[float, ...]:
        """Δ's factor for each row, 0 where it is left alone."""
        unplaced = () if self.intervention.mask is None else moment.unplaced
        both = self.intervention.side == "both"
        if both and not unplaced:
            return (1.0,) * batch
        by_side = dict(zip((COND, UNCOND), _FACTORS[self.intervention.side], strict=True))
        by_part = [by_side.get(side, 1.0 if both else 0.0) for side in moment.sides]
        if moment.unsided and not both:
            self.record.miss_side()
        if any(by_part[position] for position in unplaced):
            self.record.miss_region()
        by_part = [0.0 if position in unplaced else factor for position, factor in enumerate(by_part)]
        return tuple(factor for factor in by_part for _ in range(moment.rows_of_a_side(batch)))

    def _rows(self, factors: tuple[float, ...], device: torch.device) -> _Steered:
        """The rows to steer and Δ's factor for each, kept for the run: to bring them there waits for the device."""
        key = (factors, device)
        if key not in self._steered_rows:
            rows = [row for row, factor in enumerate(factors) if factor]
            chosen = [factors[row] for row in rows]
            self._steered_rows.setdefault(
                key,
                _Steered(
                    None if len(rows) == len(factors) else torch.tensor(rows, device=device),
                    None if set(chosen) == {1.0} else torch.tensor(chosen, device=device).unsqueeze(1),
                ),
            )
        return self._steered_rows[key]

    def _idle(self, moment: Moment) -> bool:
        return moment.sigma not in self.window or self.steering.changes_nothing

    def _region(self, mask: Tensor, batch: int, moment: Moment, device: torch.device) -> Tensor:
        """The mask as weights of the image tokens, (batch, image tokens), kept for the run."""
        key = (batch, replace(moment, sigma=0.0, text_tokens=0), device)  # the text's length is known in a block only
        if key not in self._regions:
            self._regions.setdefault(key, moment_weights(mask, moment, batch).to(device))
        return self._regions[key]


def _turning(x: Tensor, delta: Tensor) -> Tensor:
    """Δ that ends as long as x (..., d_in) is, in the direction of x + delta; 0 where that is."""
    moved = x + delta
    return moved * (x.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp_min(1e-12)) - x


class RandomDirection:
    """A tap that moves each token as far as another tap would, along one random unit vector."""

    def __init__(self, tap: ActiveIntervention, seed: int) -> None:
        self.tap = tap
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(tap.steering.sae.d_in, generator=generator)
        self.direction = direction / direction.norm()

    @property
    def site(self) -> Site:
        return self.tap.site

    def ready(self, batch: int, moment: Moment, device: torch.device) -> None:
        self.tap.ready(batch, moment, device)

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        shift = (self.tap(x, moment, activation).float() - x.float()).norm(dim=-1, keepdim=True)
        return x + (shift * self.direction.to(x.device)).to(x.dtype)
