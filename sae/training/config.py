"""What decides a training run, given the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

TrainedAs = Literal["topk", "batchtopk", "matryoshka"]
Products = Literal["auto", "float32", "bfloat16"]
NESTED_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the features, where a matryoshka SAE's widths are not given


@dataclass(frozen=True)
class TopKConfig:
    """Everything that decides a training run, given the data.

    `topk` keeps the k largest codes of each token; `batchtopk` (Bussmann et al. 2024) the k · n largest of a batch of n
    tokens, so that rich tokens get more; `matryoshka` (Bussmann et al. 2025) is batchtopk whose first features have to
    do well without the later ones, at each of `widths`. The last two are used with a threshold, token by token.
    """

    d_in: int
    d_sae: int
    k: int
    steps: int
    batch_tokens: int = 4096
    rate: float = 1e-3  # Adam's learning rate
    warmup_steps: int = 100
    decay_share: float = 0.2  # last part of the steps in which the rate falls to 0 in a straight line
    clip_norm: float = 1.0  # largest norm of the whole gradient of a token's squared error, in scaled units
    aux_k: int | None = None  # dead features in the auxiliary reconstruction; half of d_in when None
    aux_weight: float = 1 / 32  # 0 switches the auxiliary loss off
    dead_tokens: int = 200_000  # a feature is dead after so many tokens without firing
    bias_start: Literal["median", "mean"] = "median"
    seed: int = 0
    architecture: TrainedAs = "topk"
    widths: tuple[int, ...] = ()  # of a matryoshka SAE, ascending; all features come last whether said or not
    average: float = 0.0  # the result is a running average of the weights with this decay, such as 0.999; 0: the last
    products: Products = "auto"  # the encoder's product in bfloat16, where the device computes in it

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae", "k", "steps", "batch_tokens", "dead_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: the trainer needs a whole number of 1 or more, but got {value!r}.")
        if self.k > self.d_sae:
            raise ValueError(f"k: {self.k} of {self.d_sae} features cannot be active; give 1 to {self.d_sae}.")
        if not 0 <= self.decay_share <= 1:
            raise ValueError(f"decay_share: it is a share of the steps from 0 to 1, but got {self.decay_share!r}.")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"rate: Adam needs a learning rate above 0, but got {self.rate!r}.")
        if not 0 <= self.average < 1:
            raise ValueError(f"average: it is a decay from 0 to below 1, such as 0.999, but got {self.average!r}.")
        _check_choice("bias_start", self.bias_start, ("median", "mean"), "a start")
        _check_choice("architecture", self.architecture, get_args(TrainedAs), "one that is trained here")
        _check_choice("products", self.products, get_args(Products), "a type for products")
        self._check_widths()

    def _check_widths(self) -> None:
        if self.widths and self.architecture != "matryoshka":
            raise ValueError(f"widths: only a matryoshka SAE has them, but this one is {self.architecture}.")
        within = all(isinstance(width, int) and 0 < width <= self.d_sae for width in self.widths)
        if not within or list(self.widths) != sorted(set(self.widths)):
            raise ValueError(
                f"widths: they are whole numbers that ascend up to {self.d_sae}, but got {list(self.widths)}."
            )

    @property
    def nested(self) -> tuple[int, ...]:
        """How many features each reconstruction of the loss has, ascending; the last has all."""
        if self.architecture != "matryoshka":
            return (self.d_sae,)
        chosen = self.widths or tuple(int(self.d_sae * share) for share in NESTED_SHARES)
        return tuple(sorted({width for width in chosen if width > 0} | {self.d_sae}))

    @property
    def over_batch(self) -> bool:
        """Whether tokens of a batch compete with each other; what is used later has a threshold instead."""
        return self.architecture != "topk"

    @property
    def aux_features(self) -> int:
        return min(self.d_sae, self.aux_k or max(1, self.d_in // 2))

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0..steps-1: a straight rise, a plateau, a straight fall towards 0."""
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
        falling = self.steps * self.decay_share
        fall = min(1.0, (self.steps - step) / falling) if falling else 1.0
        return self.rate * min(rise, fall)


def _check_choice(name: str, value: str, choices: tuple[str, ...], what: str) -> None:
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is not {what}; use {', '.join(choices[:-1])} or {choices[-1]}.")


FEWEST_BATCH, STEPS_A_PASS = 64, 16


@dataclass(frozen=True)
class Preset:
    tokens: int
    steps: int
    batch_tokens: int
    expansion: int  # features for each number of the width
    tried_features: int  # whose steering is measured on the result

    def batch_for(self, tokens: int) -> int:
        """Fewer a step where there are few: a power of two, so that a few more tokens do not change it."""
        return min(self.batch_tokens, max(FEWEST_BATCH, 2 ** (max(1, tokens // STEPS_A_PASS).bit_length() - 1)))


PRESETS = {
    "try it (5 minutes)": Preset(60_000, 1_500, 1024, 4, 20),
    "good (an hour)": Preset(1_000_000, 10_000, 4096, 8, 50),
    "publish (a night)": Preset(8_000_000, 60_000, 4096, 16, 100),
}
