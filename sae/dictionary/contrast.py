"""A dictionary that needs no training: the difference between two sides, such as prompts for and against something.

With p and n the mean tokens of the positive and the negative side at a site, d = p - n and the middle c = (p + n) / 2,

    feature 0    direction  d    code  max(0,  (x - c)·d / ‖d‖²)
    feature 1    direction -d    code  max(0, -(x - c)·d / ‖d‖²)

so that decode(encode(x)) is c plus the projection of x - c onto d. `add` of feature 0 with `raw` 1 adds the difference
itself to every token. `swap`, feature 0 in place of feature 1, mirrors at c what lies on the negative side and leaves
the other tokens as they are: strength 1 moves the mean as far as the two sides are apart, and only where the negative
side shows. Adding moves every token by the mean over all of them, which is a small part of what one word's token needs;
lab/evidence/contrast_rows.py measures both. The difference of means is the steering vector of arXiv 2312.06681.

**Noise floor.** A mean of n runs is never exact: the length that chance alone gives the difference is the standard
error of d as a vector. With the differences δ_i of n pairs of runs, each from one seed, and their mean d,

    floor² = Σ ‖δ_i - d‖² / (n (n - 1))

and for runs that are no pairs, the sum of Σ ‖p_i - p‖² / (n (n - 1)) over both sides. Where the sides do not differ,
E‖d‖² = floor² exactly, whatever the number of dimensions and of runs; so ‖d‖ is then about one floor, and a difference
of less than CLEAR floors is nothing.
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


@dataclass(frozen=True)
class Contrast:
    """Two sides' mean tokens, (d_in,) float64 each, and the length that chance alone gives their difference."""

    positive: Tensor
    negative: Tensor
    runs: int  # of the side that had fewer
    floor: float | None  # None where a side had one run

    @classmethod
    def of(cls, positive: Tensor, negative: Tensor, paired: bool) -> Contrast:
        """From each run's mean token, (runs, d_in) of each side; where they are pairs, row i of both belongs together.

        Raises ValueError where pairs are asked for and the numbers of runs differ.
        """
        if paired and len(positive) != len(negative):
            raise ValueError(
                f"positive, negative: {len(positive)} and {len(negative)} runs came, but pairs need as many of each."
            )
        positive, negative = positive.double(), negative.double()
        variances = [_variance(positive - negative)] if paired else [_variance(positive), _variance(negative)]
        floor = None if None in variances else float(sum(found for found in variances if found is not None)) ** 0.5
        return cls(positive.mean(0), negative.mean(0), min(len(positive), len(negative)), floor)

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
        if self.norm == 0:
            raise ValueError(
                f"positive, negative: at {site or name} both sides are the same, so there is no direction."
            )
        step = self.difference.float()
        both = torch.stack([step, -step])
        middle = ((self.positive + self.negative) / 2).float()
        tensors = {
            "encoder": both / step.square().sum(),
            "decoder": both,
            "input_bias": middle,
            "output_bias": middle.clone(),
        }
        sae = SparseAutoencoder.from_tensors(tensors, Architecture("relu"), name=name, site=site)
        sae.trained_on = trained_on
        sae.contrast = ContrastOf(*prompts, self.runs, self.norm, self.floor)
        return sae


def _variance(means: Tensor) -> float | None:
    """Of the mean of (runs, d_in), summed over the entries; None of one run."""
    runs = len(means)
    return None if runs < 2 else float((means - means.mean(0)).square().sum()) / (runs * (runs - 1))
