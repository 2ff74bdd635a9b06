"""Collecting what a run's steering does, call by call, without waiting for the device that computes it."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..places.reach import Reach, skipped
from .fast.one_row import LARGEST_RATIO, Facts, Place, RowDelta, token_norms
from .summary import LARGE_DELTA, Broken, Held, PresenceOf, RunSummary

PAGE = 64  # rows of numbers that are allocated at once
SAMPLE = 64  # tokens of a call in which the loss by rounding is measured: 200,000 numbers at FLUX's width
GOLDEN = (5**0.5 - 1) / 2


class _Numbers(NamedTuple):
    """What a note has of one call, over the steered tokens."""

    mean: Tensor  # ‖Δ‖/‖x‖
    largest: Tensor  # NaN where Δ was at some token
    longest: Tensor  # ‖x‖: NaN or infinite where an activation was
    kept: Tensor  # share of ‖Δ‖² that the dtype kept
    presence: Tensor
    held: Tensor  # share of the tokens that were held at the dtype's largest number
    spared: Tensor  # share of all tokens that were left alone because they are far longer than the others


UNTOLD = (0.0, 0.0, 0.0, 0.0, math.nan, 0.0, 0.0)  # what numbers are that a call does not bring


_PRESENCE, _HELD, _SPARED = map(_Numbers._fields.index, ("presence", "held", "spared"))


class _Note(NamedTuple):
    """One steered call at one place."""

    sigma: float
    place: str
    dtype: torch.dtype
    presence_of: PresenceOf | None
    numbers: Tensor  # (len(UNTOLD),)


@dataclass
class SteeringRecord:
    """Collects numbers of one run on their own device and reads them once, at the end. Safe across threads."""

    limit: float = LARGE_DELTA  # ‖Δ‖/‖x‖ above which the summary warns
    _notes: list[_Note] = field(default_factory=list)
    _free: dict[torch.device, list[Tensor]] = field(default_factory=dict, repr=False)  # rows for the notes to come
    _reserved: dict[torch.device, int] = field(default_factory=dict, repr=False)  # of those
    _missed: bool = False
    _unsided: bool = False
    _ruined: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    reaches: list[Reach] = field(default_factory=list)  # of the taps of the run
    told: list[str] = field(default_factory=list)  # sentences on the run as a whole, for its summary

    def reserve(self, device: torch.device, count: int) -> None:
        """Allocates what `count` more notes from a device need, so that they keep no tensor of their own."""
        with self._lock:
            self._reserved[device] = self._reserved.get(device, 0) + count
            self._rows(device, self._reserved[device])

    def _rows(self, device: torch.device, count: int) -> list[Tensor]:
        """At least `count` free rows; the lock must be held."""
        free = self._free.setdefault(device, [])
        if len(free) < count:
            with torch.inference_mode(False):  # threads without that mode write into them too
                free.extend(torch.tensor([UNTOLD] * max(count, PAGE), device=device).unbind())
        return free

    @torch.no_grad()
    def note(
        self, sigma: float, x: Tensor, change: Tensor | RowDelta | Facts, steered: Tensor, weight: Tensor | None,
        place: str = "", presence_of: PresenceOf | None = None, presence: Tensor | None = None,
        held: Tensor | None = None, spared: Tensor | None = None,
    ) -> None:  # fmt: skip
        """x, steered (rows, tokens, d); `change` is Δ, or what is known of it instead.

        `weight` (rows, tokens) is zero where a token was left alone, and None where none was. `presence` (rows, tokens)
        is what `Change` has of it, of the features in the input `presence_of`; `held` (rows, tokens) tells where the
        sum was held at the dtype's largest number, `spared` (rows, tokens) which were left alone for their length. What
        the dtype kept of Δ is measured at SAMPLE of the tokens, where it is not known of all.
        """
        inside = None if weight is None else weight != 0
        always = change.numbers if isinstance(change, Facts) else _facts(x, change, steered, inside)
        with self._lock:
            row = self._rows(x.device, 1).pop()
            self._reserved[x.device] = max(0, self._reserved.get(x.device, 0) - 1)
            row[: len(always)].copy_(always)
            for number, value in ((_PRESENCE, presence), (_HELD, held)):
                if value is not None:
                    row[number].copy_(_mean(value if inside is None else torch.where(inside, value, 0), inside))
            if spared is not None:
                row[_SPARED].copy_(spared.float().mean())
            self._notes.append(_Note(sigma, place, x.dtype, presence_of, row))

    def miss_region(self) -> None:
        """Rows were left alone because it is not known which part of the picture they are."""
        with self._lock:
            self._missed = True

    def miss_side(self) -> None:
        """Rows were left alone because it is not known on which side of guidance they are."""
        with self._lock:
            self._unsided = True

    def finish(self, result: Tensor) -> None:
        """The run came to its end with this latent."""
        with self._lock:
            self._ruined = not bool(torch.isfinite(result).all())

    def summary(self) -> RunSummary:
        with self._lock:
            notes, self._notes = self._notes, []
            slowed = [sentence for reach in self.reaches for sentence in reach.slowed]
            whole = RunSummary(
                unreached=tuple(sentence for reach in self.reaches for sentence in reach.missed("steered")),
                told=(*dict.fromkeys(self.told), *slowed, *skipped(self.reaches, "steered")),
                missed=self._missed,
                unsided=self._unsided,
                ruined=self._ruined,
                limit=self.limit,
            )
            self._missed = self._unsided = self._ruined = False
        return _measured(whole, notes) if notes else whole


def _mean(values: Tensor, inside: Tensor | None) -> Tensor:
    """Of values (rows, tokens) that are 0 where a token was left alone."""
    values = values.float()
    return values.mean() if inside is None else values.sum() / inside.sum().clamp_min(1)


def _facts(x: Tensor, delta: Tensor | RowDelta, steered: Tensor, inside: Tensor | None) -> Tensor:
    """The numbers of `Facts`."""
    if isinstance(delta, RowDelta):
        shift, length = delta.norms, delta.lengths
    else:
        shift, length = delta.norm(dim=-1), token_norms(x)
    ratio = (shift / length.clamp_min(1e-12)).clamp_max(LARGEST_RATIO)
    if inside is not None:
        ratio, length = torch.where(inside, ratio, 0), torch.where(inside, length, 0)
    return torch.stack([_mean(ratio, inside), ratio.max(), length.max(), _kept(x, delta, steered, inside)])


def _kept(x: Tensor, delta: Tensor | RowDelta, steered: Tensor, inside: Tensor | None) -> Tensor:
    """Share of ‖Δ‖² that is in `steered`, at SAMPLE of the tokens `inside`, spread over them."""
    place = _spread(x) if inside is None else _sample(inside)
    wanted = (delta.at(place) if isinstance(delta, RowDelta) else delta[place]).square()
    if inside is not None:  # a token that was left alone may be NaN
        wanted = torch.where(inside[place].unsqueeze(-1), wanted, 0)
    lost = wanted * (steered[place] == x[place])
    return 1 - lost.sum() / wanted.sum().clamp_min(1e-30)


def _spread(x: Tensor) -> Place:
    """About SAMPLE tokens at equal distances, as a view. An odd one: no column of a picture is alone seen."""
    rows, tokens = x.shape[:2]
    return slice(None), slice(None, None, rows * tokens // SAMPLE | 1)


def _sample(inside: Tensor) -> Place:
    """Rows and tokens of SAMPLE places of (rows, tokens), those that are inside first, spread evenly."""
    count = inside.numel()
    places = torch.arange(count, device=inside.device)
    if count > SAMPLE:
        places = ((places * GOLDEN).frac() + inside.flatten()).topk(SAMPLE).indices
    return places // inside.shape[1], places % inside.shape[1]


def _measured(whole: RunSummary, notes: Sequence[_Note]) -> RunSummary:
    """The summary with what the notes say; calls in which something was NaN count as steered, and for nothing else."""
    rows = torch.stack([note.numbers.cpu() for note in notes])
    steps = len({note.sigma for note in notes})
    broken = _broken(notes, _Numbers(*rows.unbind(1)))
    sound = [number for number, row in enumerate(rows[:, :2]) if row.isfinite().all()]
    if not sound:
        return replace(whole, steps=steps, broken=broken)
    notes, numbers = [notes[number] for number in sound], _Numbers(*rows[sound].unbind(1))
    places, sigmas = [note.place for note in notes], [note.sigma for note in notes]
    return replace(
        whole,
        steps=steps,
        mean_ratio=float(numbers.mean.mean()),
        max_ratio=float(numbers.largest.max()),
        kept=float(numbers.kept.mean()),
        largest_mean=float(numbers.mean.max()),
        largest_at=places[int(numbers.mean.argmax())] if len(set(places)) > 1 else "",
        curve=_curve(sigmas, numbers.mean.tolist()),
        presence=_presence([note.presence_of for note in notes], numbers.presence.tolist()),
        held=_held(notes, numbers),
        spared=float(numbers.spared.mean()),
        broken=broken,
    )


def _held(notes: Sequence[_Note], numbers: _Numbers) -> Held | None:
    if not numbers.held.any():
        return None
    dtype = notes[int(numbers.held.argmax())].dtype
    return Held(float(numbers.held.mean()), str(dtype).removeprefix("torch."), torch.finfo(dtype).max)


def _broken(notes: Sequence[_Note], numbers: _Numbers) -> Broken | None:
    broken_x = ~numbers.longest.isfinite()
    where = (broken_x | numbers.largest.isnan()).nonzero().flatten().tolist()
    if not where:
        return None
    first = where[0]
    steps = len({notes[number].sigma for number in where})
    return Broken(notes[first].place, steps, by_delta=not broken_x[first])


def _curve(sigmas: list[float], ratios: list[float]) -> tuple[tuple[float, float], ...]:
    """The mean of all blocks and calls at each noise level."""
    steps: dict[float, list[float]] = {}
    for sigma, ratio in zip(sigmas, ratios, strict=True):
        steps.setdefault(sigma, []).append(ratio)
    return tuple((sigma, sum(found) / len(found)) for sigma, found in sorted(steps.items(), reverse=True))


def _presence(read: list[PresenceOf | None], found: list[float]) -> dict[PresenceOf, float]:
    """The mean of each input over all blocks and calls; those of which it is not known are left out."""
    inputs: dict[PresenceOf, list[float]] = {}
    for which, presence in zip(read, found, strict=True):
        if which is not None and not math.isnan(presence):
            inputs.setdefault(which, []).append(presence)
    return {which: sum(values) / len(values) for which, values in inputs.items()}
