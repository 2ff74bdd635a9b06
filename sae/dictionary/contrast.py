"""A dictionary that needs no training: the difference between two sides, such as prompts for and against something.

With p and n the mean tokens of the positive and the negative side at a site, d = p - n and the middle c = (p + n) / 2,

    feature 0    direction  d    code  max(0,  (x - c)·d / ‖d‖²)
    feature 1    direction -d    code  max(0, -(x - c)·d / ‖d‖²)

so that decode(encode(x)) is c plus the projection of x - c onto d. `add` of feature 0 with `raw` 1 adds the difference
itself to every token. `swap`, feature 0 in place of feature 1, mirrors at c what lies on the negative side and leaves
the other tokens as they are: strength 1 moves the mean as far as the two sides are apart, and only where the negative
side shows. Adding moves every token by the mean over all of them, which is a small part of what one word's token needs;
lab/evidence/contrast_rows.py measures both. The difference of means is the steering vector of arXiv 2312.06681.

There are other ways (`Way`) to make one. With `whitened` d is written as it is and read with w in place of d / ‖d‖²
(below). With `pca` d lies along the first principal component of the pairs' differences δ_i around 0, the right
singular vector v of the largest singular value, and is as long as they are along it in the mean: d = (δ̄·v) v
(representation engineering, arXiv 2310.01405).

**Noise floor.** A mean of n runs is never exact: the length that chance alone gives the difference is the standard
error of d as a vector. With the differences δ_i of n pairs of runs, each from one seed, and their mean d,

    floor² = Σ ‖δ_i - d‖² / (n (n - 1))

and for runs that are no pairs, the sum of Σ ‖p_i - p‖² / (n (n - 1)) over both sides. Where the sides do not differ,
E‖d‖² = floor² exactly, whatever the number of dimensions and of runs; so ‖d‖ is then about one floor, and a difference
of less than CLEAR floors is nothing.

**Consistency.** The mean cosine of the pairs' differences with their mean, Σ cos(δ_i, d) / n. Pairs that differ in one
thing alone come near 1; n differences with nothing in common give 1/√n. A direction may be far above the floor and yet
hold several things: below AGREE it does.

**Whitened.** Reading along d itself counts everything that lies along d by chance. Of all w with w·d = 1, the one whose
code varies least over the tokens is

    w = Σ⁻¹ d / (dᵀ Σ⁻¹ d)

with Σ the covariance of the tokens, each around its own side's mean: Fisher's discriminant, what LEACE erases with
(arXiv 2306.03819) and what LEACE-Switch and MidSteer (arXiv 2605.05220) read with. There are seldom more tokens than
dimensions, so Σ is shrunk towards a multiple of 1, as far as Chen, Wiesel, Eldar and Hero, "Shrinkage Algorithms for
MMSE Covariance Estimation" (IEEE TSP 2010), have it for n samples, tokens of one call of each run:

    Σ = (1 - ρ) S + ρ tr(S)/p · 1        ρ = min(1, (tr(S²)(1 - 2/p) + tr(S)²) / ((n + 1 - 2/p)(tr(S²) - tr(S)²/p)))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..places.site import Site
from .autoencoder import Architecture, SparseAutoencoder
from .owner import ContrastOf, TrainedOn

Side = Literal["positive", "negative"]
SIDES: tuple[Side, ...] = get_args(Side)  # in the order of their features
CLEAR = 2.0  # times the noise floor
AGREE = 0.6  # consistency below which pairs tell of more than one thing
Way = Literal["auto", "mean", "whitened", "pca"]
WAYS: tuple[Way, ...] = get_args(Way)


def way_at(way: Way, site: Site | None) -> Way:
    """What `auto` means at a site: `whitened` where text enters, else `mean`; of an embedding `mean`.

    Measured on Shapes (lab/evidence/contrast_rows.py); docs/evidence.md has the numbers.
    """
    if way != "auto":
        return way
    return "whitened" if site is not None and (site.point, site.stream) == ("input", "text") else "mean"


@dataclass(frozen=True)
class Contrast:
    """Two sides' mean tokens, (d_in,) float64 each, and the length that chance alone gives their difference."""

    positive: Tensor
    negative: Tensor
    runs: int  # of the side that had fewer
    floor: float | None  # None where a side had one run
    direction: Tensor  # d (d_in,): the difference, or what another way makes of the pairs
    consistency: float | None = None  # None of runs that are no pairs, and of one pair
    reads: Tensor | None = None  # w (d_in,), w·d = 1, with which codes are read; None for d / ‖d‖²

    @classmethod
    def of(cls, positive: Tensor, negative: Tensor, paired: bool, way: Way = "mean") -> Contrast:
        """From each run's mean token, (runs, d_in) of each side; where they are pairs, row i of both belongs together.

        What `whitened` reads with is known to who saw the tokens. Raises ValueError where pairs are asked for and the
        numbers of runs differ, and for `pca` without pairs.
        """
        if paired and len(positive) != len(negative):
            raise ValueError(
                f"positive, negative: {len(positive)} and {len(negative)} runs came, but pairs need as many of each."
            )
        positive, negative = positive.double(), negative.double()
        variances = [_variance(positive - negative)] if paired else [_variance(positive), _variance(negative)]
        floor = None if None in variances else float(sum(found for found in variances if found is not None)) ** 0.5
        direction = positive.mean(0) - negative.mean(0)
        if way == "pca":
            if not paired:
                raise ValueError("contrast_by: 'pca' is of pairs, and these sides are none; use mean or whitened.")
            direction = _principal(positive - negative)
        consistency = _consistency(positive - negative) if paired and len(positive) > 1 else None
        runs = min(len(positive), len(negative))
        return cls(positive.mean(0), negative.mean(0), runs, floor, direction, consistency)

    @property
    def difference(self) -> Tensor:
        return self.positive - self.negative

    @property
    def norm(self) -> float:
        return float(self.difference.norm())

    @property
    def times(self) -> float | None:
        """How many noise floors long the difference is; None where no floor is known."""
        if self.floor is None:
            return None
        return self.norm / self.floor if self.floor > 0 else float("inf") if self.norm else 0.0

    @property
    def is_nothing(self) -> bool:
        """Whether chance gives as much; of one run of each side only that they are the same."""
        return self.norm == 0 or (self.times is not None and self.times < CLEAR)

    def dictionary(
        self, site: Site | None, name: str, trained_on: TrainedOn | None = None,
        prompts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
    ) -> SparseAutoencoder:  # fmt: skip
        """The two features; `prompts` says what was shown on each side. ValueError where both sides are the same.

        Directions in an embedding have no site.
        """
        if self.norm == 0 or not self.direction.any():
            raise ValueError(
                f"positive, negative: at {site or name} both sides are the same, so there is no direction."
            )
        step = self.direction.float()
        both = torch.stack([step, -step])
        reads = step / step.square().sum() if self.reads is None else self.reads.float()
        middle = ((self.positive + self.negative) / 2).float()
        tensors = {
            "encoder": torch.stack([reads, -reads]),
            "decoder": both,
            "input_bias": middle,
            "output_bias": middle.clone(),
        }
        sae = SparseAutoencoder.from_tensors(tensors, Architecture("relu"), name=name, site=site)
        sae.trained_on = trained_on
        sae.contrast = ContrastOf(*prompts, self.runs, self.norm, self.floor)
        return sae


class TokenCovariance:
    """How tokens vary at a site, each around its own side's mean.

    It keeps (d_in, d_in) numbers in float64 on the CPU: 75 MB at FLUX's width.
    """

    def __init__(self) -> None:
        self.samples = 0  # tokens, without what was seen again
        self._counts = dict.fromkeys(SIDES, 0)  # all tokens
        self._sums: dict[Side, Tensor] = {}  # (d_in,), from the origin
        self._origin: Tensor | None = None  # near the means, so that squares do not swallow the differences
        self._products: Tensor | None = None  # (d_in, d_in), from the origin

    @property
    def tokens(self) -> int:
        return sum(self._counts.values())

    def add(self, tokens: Tensor, side: Side, others: bool = True) -> None:
        """Tokens (..., d_in); whether they are `others` than those that were added, or the same once more."""
        tokens = tokens.flatten(0, -2).float()
        width = tokens.shape[-1]
        if self._origin is None or self._products is None:
            self._origin = tokens.mean(0)
            self._products = torch.zeros(width, width, dtype=torch.float64)
            self._sums = {side: torch.zeros(width, dtype=torch.float64) for side in SIDES}
        apart = tokens - self._origin.to(tokens.device)
        self._sums[side] += apart.sum(0).cpu()
        self._products += (apart.T @ apart).cpu()
        self._counts[side] += len(tokens)
        self.samples += len(tokens) if others else 0

    @property
    def scatter(self) -> Tensor:
        """(d_in, d_in), Σ (x - mean)(x - mean)ᵀ; ValueError where nothing was seen."""
        if self._products is None:
            raise ValueError("model: it never came to the place, so nothing was seen there.")
        means = [torch.outer(self._sums[side], self._sums[side]) / max(self._counts[side], 1) for side in SIDES]
        return self._products - means[0] - means[1]


def shrunk(scatter: Tensor, tokens: int, samples: int) -> Tensor:
    """Σ (p, p) from the tokens' Σ (x - mean)(x - mean)ᵀ, for as many independent `samples`."""
    found, width = scatter / max(tokens, 1), len(scatter)
    trace, square = found.trace(), found.square().sum()
    spread = (samples + 1 - 2 / width) * (square - trace**2 / width)
    part = float(((1 - 2 / width) * square + trace**2) / spread) if spread > 0 else 1.0
    part = min(1.0, part)
    return (1 - part) * found + part * trace / width * torch.eye(width, dtype=found.dtype)


def whitened(difference: Tensor, seen: TokenCovariance) -> Tensor:
    """w (d_in,) float64 for d (d_in,): w·d = 1. Where the tokens do not vary, or d is nothing, along d itself."""
    covariance = shrunk(seen.scatter, seen.tokens, seen.samples)
    if not covariance.trace() > 0 or not difference.any():
        return difference / difference.square().sum().clamp_min(1e-300)
    across = torch.linalg.solve(covariance, difference)
    return across / (difference @ across)


def _principal(differences: Tensor) -> Tensor:
    """(d_in,) from (pairs, d_in): their part along the direction in which they are longest."""
    along = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    return (differences.mean(0) @ along) * along


def _consistency(differences: Tensor) -> float:
    """Mean cosine of (pairs, d_in) with their mean; 0 where there is none."""
    mean = differences.mean(0, keepdim=True)
    return float(torch.cosine_similarity(differences, mean, dim=1, eps=1e-30).mean())


def _variance(means: Tensor) -> float | None:
    """Of the mean of (runs, d_in), summed over the entries; None of one run."""
    runs = len(means)
    return None if runs < 2 else float((means - means.mean(0)).square().sum()) / (runs * (runs - 1))
