"""How tokens vary, whatever two sides differ in: what a contrast has to read past.

Reading along d = p - n itself counts everything that lies along d by chance. Of all w with w·d = 1, the one whose code
(x - c)·w varies least over the tokens is

    w = Σ⁻¹ d / (dᵀ Σ⁻¹ d)

with Σ the covariance of the tokens, each around its own side's mean: Fisher's discriminant, what LEACE erases with
(arXiv 2306.03819) and what LEACE-Switch and MidSteer (arXiv 2605.05220) read with. What is written stays d.

There are seldom more tokens than dimensions, so Σ is shrunk towards a multiple of 1, as far as Chen, Wiesel, Eldar and
Hero, "Shrinkage Algorithms for MMSE Covariance Estimation" (IEEE TSP 2010), have it for n samples:

    Σ = (1 - ρ) S + ρ tr(S)/p · 1        ρ = min(1, (tr(S²)(1 - 2/p) + tr(S)²) / ((n + 1 - 2/p)(tr(S²) - tr(S)²/p)))

A run calls the model several times and sees much the same each time: n counts the tokens of one call of each run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..places.moment import Moment
from .features import cond_parts


class TokenCovariance:
    """The tokens of one side at a site: the `see` of an Observer, for all its runs. Only cond rows count.

    It keeps (d_in, d_in) numbers in float64 on the CPU: 75 MB at FLUX's width.
    """

    def __init__(self) -> None:
        self.tokens = 0  # all that were seen
        self.samples = 0  # those of the first call of each run
        self._origin: Tensor | None = None  # near the mean, so that squares do not swallow the differences
        self._sum: Tensor | None = None  # (d_in,), from the origin
        self._products: Tensor | None = None  # (d_in, d_in), from the origin
        self._first_call = False

    def begin_run(self) -> None:
        self._first_call = True

    def __call__(self, x: Tensor, moment: Moment) -> None:
        for rows, _ in cond_parts(x, moment):
            self.add(rows)
        self._first_call = False

    def add(self, tokens: Tensor) -> None:
        """Tokens (..., d_in)."""
        tokens = tokens.flatten(0, -2).float()
        if self._origin is None:
            self._origin = tokens.mean(0)
            self._sum = torch.zeros(tokens.shape[-1], dtype=torch.float64)
            self._products = torch.zeros(tokens.shape[-1], tokens.shape[-1], dtype=torch.float64)
        apart = tokens - self._origin
        self._sum += apart.sum(0).cpu()
        self._products += (apart.T @ apart).cpu()
        self.tokens += len(tokens)
        self.samples += len(tokens) if self._first_call else 0

    @property
    def scatter(self) -> Tensor:
        """(d_in, d_in), Σ (x - mean)(x - mean)ᵀ; ValueError where nothing was seen."""
        if self._sum is None or self._products is None:
            raise ValueError("model: it never came to the place, so nothing was seen there.")
        return self._products - torch.outer(self._sum, self._sum) / self.tokens


def shrunk(scatter: Tensor, tokens: int, samples: int) -> Tensor:
    """Σ (p, p) from the tokens' Σ (x - mean)(x - mean)ᵀ, for as many independent `samples`."""
    found, width = scatter / max(tokens, 1), len(scatter)
    trace, square = found.trace(), found.square().sum()
    spread = (samples + 1 - 2 / width) * (square - trace**2 / width)
    part = float(((1 - 2 / width) * square + trace**2) / spread) if spread > 0 else 1.0
    part = min(1.0, part)
    return (1 - part) * found + part * trace / width * torch.eye(width, dtype=found.dtype)


def whitened(difference: Tensor, sides: Sequence[TokenCovariance]) -> Tensor:
    """w (d_in,) float64 for d (d_in,): w·d = 1. Where the tokens do not vary, or d is nothing, along d itself."""
    covariance = shrunk(
        sum((side.scatter for side in sides), torch.zeros(len(difference), len(difference), dtype=torch.float64)),
        sum(side.tokens for side in sides),
        sum(side.samples for side in sides),
    )
    if not covariance.trace() > 0 or not difference.any():
        return difference / difference.square().sum().clamp_min(1e-300)
    across = torch.linalg.solve(covariance, difference)
    return across / (difference @ across)
