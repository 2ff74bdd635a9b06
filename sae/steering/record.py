"""What a run's steering really did: steps steered, ‖Δ‖/‖x‖, and what the model's dtype left of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..places.reach import Reach

PAGE = 64  # rows of numbers that are allocated at once
LARGE_DELTA = 0.5  # of a token's norm: beyond this the activation is destroyed rather than steered
LOST_TO_ROUNDING = 0.5  # share of ‖Δ‖² that survives the addition below which the dtype eats the steering


@dataclass
class SteeringRecord:
    """Collects numbers of one run on their own device and reads them once, at the end. Safe across threads."""

    _notes: list[tuple[float, Tensor]] = field(default_factory=list)
    _free: dict[torch.device, list[Tensor]] = field(default_factory=dict, repr=False)  # rows for the notes to come
    _missed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    reaches: list[Reach] = field(default_factory=list)  # of the taps of the run

    def reserve(self, device: torch.device, count: int) -> None:
        """Allocates what `count` notes from a device need, so that they keep no tensor of their own."""
        with self._lock:
            self._rows(device, count)

    def _rows(self, device: torch.device, count: int) -> list[Tensor]:
        """At least `count` free rows; the lock must be held."""
        free = self._free.setdefault(device, [])
        if len(free) < count:
            with torch.inference_mode(False):  # threads without that mode write into them too
                free.extend(torch.empty(max(count, PAGE), 3, device=device).unbind())
        return free

    def note(self, sigma: float, x: Tensor, delta: Tensor, steered: Tensor, weight: Tensor) -> None:
        """x, delta, steered (rows, tokens, d); weight (rows, tokens), zero where a token was left alone."""
        inside = weight != 0
        shift = delta.norm(dim=-1)
        ratio = torch.where(inside, shift / x.float().norm(dim=-1).clamp_min(1e-12), 0)
        count = inside.sum().clamp_min(1)
        wanted = delta.square()
        lost = torch.where(steered == x, wanted, 0).sum() / wanted.sum().clamp_min(1e-30)
        numbers = torch.stack([ratio.sum() / count, ratio.max(), 1 - lost])
        with self._lock:
            row = self._rows(x.device, 1).pop()
            self._notes.append((sigma, row.copy_(numbers.detach())))

    def miss_region(self) -> None:
        """Rows were left alone because it is not known which part of the picture they are."""
        with self._lock:
            self._missed = True

    def summary(self) -> RunSummary:
        with self._lock:
            notes, self._notes = self._notes, []
            missed, self._missed = self._missed, False
        unreached = tuple(sentence for reach in self.reaches for sentence in reach.missed("steered"))
        if not notes:
            return RunSummary(steps=0, mean_ratio=0.0, max_ratio=0.0, kept=1.0, unreached=unreached, missed=missed)
        numbers = torch.stack([numbers.cpu() for _, numbers in notes])
        return RunSummary(
            steps=len({sigma for sigma, _ in notes}),
            mean_ratio=float(numbers[:, 0].mean()),
            max_ratio=float(numbers[:, 1].max()),
            kept=float(numbers[:, 2].mean()),
            largest_mean=float(numbers[:, 0].max()),
            curve=_curve([sigma for sigma, _ in notes], numbers[:, 0].tolist()),
            unreached=unreached,
            missed=missed,
        )


def _curve(sigmas: list[float], ratios: list[float]) -> tuple[tuple[float, float], ...]:
    """The mean of all blocks and calls at each noise level."""
    steps: dict[float, list[float]] = {}
    for sigma, ratio in zip(sigmas, ratios, strict=True):
        steps.setdefault(sigma, []).append(ratio)
    return tuple((sigma, sum(found) / len(found)) for sigma, found in sorted(steps.items(), reverse=True))


@dataclass(frozen=True)
class RunSummary:
    """Steps steered and the ratio ‖Δ‖/‖x‖: its mean over tokens, blocks and steps, and its largest value."""

    steps: int
    mean_ratio: float
    max_ratio: float
    kept: float  # share of ‖Δ‖² that the model's dtype kept
    largest_mean: float = 0.0  # largest mean over the tokens of one block in one step
    curve: tuple[tuple[float, float], ...] = ()  # (sigma, mean ‖Δ‖/‖x‖) of each step, noise first
    unreached: tuple[str, ...] = ()  # sentences that name places which the run never came to
    missed: bool = False  # whether parts of the picture were left alone because their place was not known

    def __str__(self) -> str:
        if self.steps == 0:
            return "No step was steered."
        unit = "step" if self.steps == 1 else "steps"
        return f"Steered {self.steps} {unit}; mean ‖Δ‖/‖x‖ {self.mean_ratio:.3g}, largest {self.max_ratio:.3g}."

    @property
    def warnings(self) -> list[str]:
        found = [*self.unreached]
        if self.missed:
            found.append(
                "The mask was not used everywhere: the model was given parts of the picture whose place is not known, "
                "and they were not steered. Leave the mask away, or the node that cuts the picture into parts."
            )
        if self.steps and self.largest_mean > LARGE_DELTA:
            found.append(
                f"Δ reached {self.largest_mean:.2g} of the token norm; above {LARGE_DELTA:g} it destroys the "
                "activation instead of steering it: lower the strength."
            )
        if self.steps and self.kept < LOST_TO_ROUNDING:
            found.append(
                f"The model's precision kept only {self.kept:.0%} of Δ, the rest was rounded away: raise the "
                "strength or load the model in a higher precision."
            )
        return found

    def check_reached(self) -> None:
        """Raises ValueError when no step was steered because the place was never reached."""
        if not self.steps and self.unreached:
            raise ValueError(f"location: {self.unreached[0]}")
