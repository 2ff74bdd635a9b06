"""The TopK SAE as it is trained: its parameters and its loss.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders": f = relu(topk_k(W_enc (x - b) + b_enc)),
x̂ = f W_dec + b with decoder directions of unit length; features that have not fired for long also learn to predict
what the others leave over (the auxiliary loss). Relatives that choose over the batch: config.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..dictionary.activations import ActiveList, SparseCodes
from .config import TopKConfig
from .distributed import OneProcess, Peers
from .fast.reconstruction import have_kernels, reconstruct
from .sparse import Chosen, choose_over_batch, choose_per_token, kept_codes, largest, sum_rows

MEDIAN_ITERATIONS = 30
MEDIAN_TOKENS = 16_384
FIRST_WITH_BFLOAT16 = 8  # compute capability; before it the type is emulated
THRESHOLD_RATE = 0.01  # how fast the threshold follows the smallest code of a batch


class Losses(NamedTuple):
    """Scalars, except `fired`: (d_sae,) bool, the features that fired in this batch."""

    total: Tensor
    reconstruction: Tensor  # unexplained share of the batch's variance, with all features
    auxiliary: Tensor  # in the same unit; 0 without dead features
    fired: Tensor
    smallest: Tensor  # the smallest code that was kept and is above 0, in scaled units; infinity without one


class TopKModel(nn.Module):
    """Parameters in float32: bias (d_in), encoder (d_sae, d_in), encoder_bias (d_sae), decoder rows (d_sae, d_in).

    `scale` is a fixed number that brings the tokens to unit variance, so that one learning rate suits every site. The
    biases and the threshold are in scaled units; what goes in and out of encode and decode is in the tokens' own.
    """

    scale: Tensor
    threshold: Tensor  # of all features, where tokens competed in training; 0 else

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
        self.register_buffer("threshold", torch.zeros(()))

    @property
    def centre(self) -> Tensor:
        """What is taken off the tokens before encoding: the bias in the tokens' own units."""
        return self.bias * self.scale

    @torch.no_grad()
    def encode(self, x: Tensor) -> SparseCodes:
        """Codes (n, m) of tokens (n, d_in), as the exported SAE has them; m is k, or what exceeds the threshold."""
        before = self._before(x / self.scale)
        if self.config.over_batch:
            active = ActiveList(len(x), x.device)
            active.add(0, slice(0, len(x)), (before.float() * self.scale).relu() * (before > self.threshold))
            return active.pack()
        indices = largest(before, self.config.k)
        return SparseCodes(before.gather(1, indices).float().relu() * self.scale, indices)

    def decode(self, codes: SparseCodes) -> Tensor:
        """Sparse codes (n, m) to tokens (n, d_in), by gathering decoder rows."""
        count, width = codes.values.shape
        starts = torch.arange(count, device=codes.values.device) * width
        return sum_rows(self.decoder, codes.indices.flatten(), codes.values.flatten(), starts) + self.centre

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def losses(self, x: Tensor, dead: Tensor, peers: Peers | None = None, dead_count: int | None = None) -> Losses:
        """Loss of tokens (n, d_in) with the dead features (d_sae,) bool; with peers, the share of their common loss.

        Who knows how many are dead says it: a GPU would have to be waited for.
        """
        x = x / self.scale
        with torch.no_grad():
            before = self._before(x)
            choose = choose_over_batch if self.config.over_batch else choose_per_token
            chosen = choose(before, self.config.k)
            variance = _variance(x, peers or OneProcess())
        values, nested = self._codes_and_errors(x, before, chosen)
        reconstruction = nested[-1].square().sum() / variance
        mean = sum((error.square().sum() / variance for error in nested[:-1]), reconstruction) / len(nested)
        count = int(dead.sum()) if dead_count is None else dead_count
        others = self._auxiliary(x, before, nested[-1].detach(), dead, count) / variance
        fired = _fired(chosen.features, values.detach(), len(dead))
        smallest = values.detach().masked_fill(values <= 0, torch.inf).amin()
        return Losses(mean + self.config.aux_weight * others, reconstruction, others, fired, smallest)

    @torch.no_grad()
    def fit_to(self, x: Tensor) -> None:
        """Sets the scale by tokens (n, d_in), and the bias to their middle."""
        x = x[:MEDIAN_TOKENS].float()
        spread = (x - x.mean(dim=0)).square().mean().sqrt()
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))
        middle = geometric_median(x) if self.config.bias_start == "median" else x.mean(dim=0)
        self.bias.copy_(middle / self.scale)

    @torch.no_grad()
    def follow_threshold(self, smallest: Tensor, first: bool) -> None:
        """Moves the threshold towards the smallest code that a batch kept."""
        if self.config.over_batch:
            moved = self.threshold.lerp(smallest, 1.0 if first else THRESHOLD_RATE)
            self.threshold.copy_(torch.where(torch.isfinite(smallest), moved, self.threshold))

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def drop_parallel_gradient(self) -> None:
        """Removes the part of the decoder's gradient that would only change the directions' lengths."""
        gradient = self.decoder.grad
        if gradient is not None:
            along = torch.linalg.vecdot(gradient, self.decoder, dim=1)
            gradient.addcmul_(along[:, None], self.decoder, value=-1)

    @torch.no_grad()
    def _before(self, x: Tensor) -> Tensor:
        """Codes (n, d_sae) before any is chosen, of scaled tokens (n, d_in); on a GPU perhaps in bfloat16."""
        centred = x - self.bias
        if not self._in_bfloat16:
            return functional.linear(centred, self.encoder, self.encoder_bias)
        if centred.is_cuda:  # in one go: its memory, not its arithmetic, is what all of them in float32 would wait for
            return functional.linear(centred.bfloat16(), self.encoder.bfloat16(), self.encoder_bias.bfloat16())
        return functional.linear(centred.bfloat16(), self.encoder.bfloat16()).float() + self.encoder_bias

    @property
    def _in_bfloat16(self) -> bool:
        if self.config.products != "auto":
            return self.config.products == "bfloat16"
        return self.encoder.is_cuda and torch.cuda.get_device_capability(self.encoder.device)[0] >= FIRST_WITH_BFLOAT16

    def _codes_and_errors(self, x: Tensor, before: Tensor, chosen: Chosen) -> tuple[Tensor, list[Tensor]]:
        """The chosen codes (m,), and what is left of x (n, d_in) after the first features alone, for each width."""
        weights = self.bias, self.encoder, self.encoder_bias
        if len(self.config.nested) == 1 and have_kernels(self.encoder):
            summed, values = reconstruct(x, *weights, self.decoder, before, chosen)
            return values, [x - self.bias - summed]
        values = kept_codes(x, *weights, before, chosen).relu()
        return values, self._nested_errors(x, values, chosen)

    def _nested_errors(self, x: Tensor, values: Tensor, chosen: Chosen) -> list[Tensor]:
        """What is left of x (n, d_in) after the first features alone, for each width; the last has all."""
        left, errors, done = x - self.bias, [], 0
        for width in self.config.nested:
            part, wanted = values, chosen
            if len(self.config.nested) > 1:
                kept = (chosen.features >= done) & (chosen.features < width)
                part, wanted = values[kept], chosen.only(kept)
            left = left - sum_rows(self.decoder, wanted.features, part, wanted.starts)
            errors.append(left)
            done = width
        return errors

    def _auxiliary(self, x: Tensor, before: Tensor, error: Tensor, dead: Tensor, dead_count: int) -> Tensor:
        """Squared error of predicting `error` (n, d_in) with the strongest dead features."""
        count = min(self.config.aux_features, dead_count)
        if count == 0 or self.config.aux_weight == 0:
            return error.new_zeros(())
        if x.is_cuda:
            dtype = torch.bfloat16 if self._in_bfloat16 else torch.float32
            return auxiliary_by_products(self, x, error, dead, count, dtype)
        return auxiliary_by_rows(self, x, before, error, dead, count)


def _fired(features: Tensor, values: Tensor, d_sae: int) -> Tensor:
    """(d_sae,) bool: the features with a value above 0. Found without waiting for a GPU."""
    fired = torch.zeros(d_sae + 1, dtype=torch.bool, device=features.device)
    return fired.index_fill_(0, features.where(values > 0, d_sae), True)[:-1]  # the last stands for all others


def _variance(x: Tensor, peers: Peers) -> Tensor:
    """The mean of everybody's summed squares around the mean of all tokens."""
    squares = peers.mean((x - peers.mean(x.mean(dim=0))).square().sum())
    return squares.clamp_min(torch.finfo(x.dtype).tiny)


def geometric_median(x: Tensor, iterations: int = MEDIAN_ITERATIONS) -> Tensor:
    """The point (d) with the least summed distance to tokens (n, d), by Weiszfeld's iteration."""
    middle = x.mean(dim=0)
    for _ in range(iterations):
        weight = 1 / (x - middle).norm(dim=1, keepdim=True).clamp_min(1e-6)
        middle = (x * weight).sum(dim=0) / weight.sum()
    return middle


def auxiliary_by_rows(model: TopKModel, x: Tensor, before: Tensor, error: Tensor, dead: Tensor, count: int) -> Tensor:
    """Squared error (summed) of predicting `error` (n, d_in) with `count` dead features a token, by sums of rows.

    Of scaled tokens x (n, d_in) with their codes `before` (n, d_sae).
    """
    chosen = choose_per_token(before.masked_fill(~dead, -torch.inf), count)
    values = kept_codes(x, model.bias, model.encoder, model.encoder_bias, before, chosen).relu()
    return (error - sum_rows(model.decoder, chosen.features, values, chosen.starts)).square().sum()


def auxiliary_by_products(
    model: TopKModel, x: Tensor, error: Tensor, dead: Tensor, count: int, dtype: torch.dtype
) -> Tensor:
    """The same by products in `dtype` of the dead features' matrices: on a GPU, where rows cost more than products."""
    features = dead.nonzero().squeeze(1)
    encoder, bias, decoder = (
        tensor.index_select(0, features).to(dtype) for tensor in (model.encoder, model.encoder_bias, model.decoder)
    )
    codes = functional.linear((x - model.bias).to(dtype), encoder, bias)  # (n, dead)
    if count < len(features):
        kept = torch.zeros_like(codes, dtype=torch.bool).scatter_(1, largest(codes.detach(), count), True)
        codes = codes.where(kept, 0.0)
    return (error - (codes.relu() @ decoder).float()).square().sum()
