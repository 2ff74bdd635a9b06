"""The TopK SAE as it is trained: its configuration, its parameters and its loss.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders": f = relu(topk_k(W_enc (x - b) + b_enc)),
x̂ = f W_dec + b with decoder directions of unit length; features that have not fired for long also learn to predict
what the others leave over (the auxiliary loss).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MEDIAN_ITERATIONS = 30
MEDIAN_TOKENS = 16_384


@dataclass(frozen=True)
class TopKConfig:
    """Everything that decides a training run, given the data."""

    d_in: int
    d_sae: int
    k: int
    steps: int
    batch_tokens: int = 4096
    rate: float = 1e-3  # Adam's learning rate
    warmup_steps: int = 100
    decay_share: float = 0.2  # last part of the steps in which the rate falls to 0 in a straight line
    clip_norm: float = 1.0  # largest norm of the whole gradient
    aux_k: int | None = None  # dead features in the auxiliary reconstruction; half of d_in when None
    aux_weight: float = 1 / 32  # 0 switches the auxiliary loss off
    dead_tokens: int = 200_000  # a feature is dead after so many tokens without firing
    bias_start: Literal["median", "mean"] = "median"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae", "k", "steps", "batch_tokens", "dead_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: the trainer needs a whole number of 1 or more, but got {value!r}.")
        if self.k > self.d_sae:
            raise ValueError(f"k: {self.k} of {self.d_sae} features cannot be active; give 1 to {self.d_sae}.")
        if not 0 <= self.decay_share <= 1:
            raise ValueError(f"decay_share: it is a share of the steps from 0 to 1, but got {self.decay_share!r}.")
        if self.bias_start not in ("median", "mean"):
            raise ValueError(f"bias_start: {self.bias_start!r} is not a start; use median or mean.")

    @property
    def aux_features(self) -> int:
        return min(self.d_sae, self.aux_k or max(1, self.d_in // 2))

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0..steps-1: a straight rise, a plateau, a straight fall towards 0."""
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
        falling = self.steps * self.decay_share
        fall = min(1.0, (self.steps - step) / falling) if falling else 1.0
        return self.rate * min(rise, fall)


class Losses(NamedTuple):
    """Scalars, except `fired`: (d_sae,) bool, the features that fired in this batch."""

    total: Tensor
    reconstruction: Tensor  # unexplained share of the batch's variance
    auxiliary: Tensor  # in the same unit; 0 without dead features
    fired: Tensor


class TopKModel(nn.Module):
    """Parameters in float32: bias (d_in), encoder (d_sae, d_in), encoder_bias (d_sae), decoder rows (d_sae, d_in).

    `scale` is a fixed number that brings the tokens to unit variance, so that one learning rate suits every site. The
    biases are in scaled units; what goes in and out of encode and decode is in the tokens' own.
    """

    scale: Tensor

    def __init__(self, config: TopKConfig) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        directions = functional.normalize(torch.randn(config.d_sae, config.d_in, generator=generator), dim=1)
        self.config = config
        self.bias = nn.Parameter(torch.zeros(config.d_in))
        self.encoder = nn.Parameter(directions.clone())  # tied at the start only
        self.encoder_bias = nn.Parameter(torch.zeros(config.d_sae))
        self.decoder = nn.Parameter(directions)
        self.register_buffer("scale", torch.ones(()))

    @property
    def centre(self) -> Tensor:
        """What is taken off the tokens before encoding: the bias in the tokens' own units."""
        return self.bias * self.scale

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, d_in) to the k active features of each: values and indices (n, k)."""
        values, indices = _top(self._before_topk(x / self.scale), self.config.k)
        return values * self.scale, indices

    def decode(self, values: Tensor, indices: Tensor) -> Tensor:
        """Sparse codes (n, k) to tokens (n, d_in), by gathering decoder rows."""
        return self._sum_rows(values, indices) + self.centre

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(*self.encode(x))

    def losses(self, x: Tensor, dead: Tensor) -> Losses:
        """Loss of tokens (n, d_in) with the dead features (d_sae,) bool."""
        x = x / self.scale
        before = self._before_topk(x)
        values, indices = _top(before, self.config.k)
        error = x - self.bias - self._sum_rows(values, indices)
        variance = (x - x.mean(dim=0)).square().sum().clamp_min(torch.finfo(x.dtype).tiny)
        reconstruction = error.square().sum() / variance
        auxiliary = self._auxiliary(before, error.detach(), dead) / variance
        fired = torch.zeros_like(dead)
        fired[indices[values > 0]] = True
        return Losses(reconstruction + self.config.aux_weight * auxiliary, reconstruction, auxiliary, fired)

    @torch.no_grad()
    def fit_to(self, x: Tensor) -> None:
        """Sets the scale by tokens (n, d_in), and the bias to their middle."""
        x = x[:MEDIAN_TOKENS].float()
        spread = (x - x.mean(dim=0)).square().mean().sqrt()
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))
        middle = geometric_median(x) if self.config.bias_start == "median" else x.mean(dim=0)
        self.bias.copy_(middle / self.scale)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        self.decoder.copy_(functional.normalize(self.decoder, dim=1))

    @torch.no_grad()
    def drop_parallel_gradient(self) -> None:
        """Removes the part of the decoder's gradient that would only change the directions' lengths."""
        gradient = self.decoder.grad
        if gradient is not None:
            gradient -= (gradient * self.decoder).sum(dim=1, keepdim=True) * self.decoder

    def _before_topk(self, x: Tensor) -> Tensor:
        return functional.linear(x - self.bias, self.encoder, self.encoder_bias)

    def _sum_rows(self, values: Tensor, indices: Tensor) -> Tensor:
        return functional.embedding_bag(indices, self.decoder, per_sample_weights=values, mode="sum")

    def _auxiliary(self, before: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """Squared error of predicting `error` (n, d_in) with the strongest dead features."""
        count = min(self.config.aux_features, int(dead.sum()))
        if count == 0 or self.config.aux_weight == 0:
            return before.new_zeros(())
        values, indices = _top(before.masked_fill(~dead, -torch.inf), count)
        return (error - self._sum_rows(values, indices)).square().sum()


def _top(before: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, indices = before.topk(k, dim=-1, sorted=False)
    return values.relu(), indices


def geometric_median(x: Tensor, iterations: int = MEDIAN_ITERATIONS) -> Tensor:
    """The point (d) with the least summed distance to tokens (n, d), by Weiszfeld's iteration."""
    middle = x.mean(dim=0)
    for _ in range(iterations):
        weight = 1 / (x - middle).norm(dim=1, keepdim=True).clamp_min(1e-6)
        middle = (x * weight).sum(dim=0) / weight.sum()
    return middle
