"""The reconstruction of a training step by kernels, where they work; torch's own operations are in sparse.py."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from ...dictionary.fast.availability import have_kernels as trained_by
from ...dictionary.fast.availability import sums_of_rows, works
from ..sparse import Chosen


def have_kernels(weight: Tensor) -> bool:
    """Whether Triton has kernels for a step with such weights (rows, d)."""
    return trained_by(weight) and _work(weight.device)


@lru_cache
def _work(device: torch.device) -> bool:
    return works(lambda: _attempt(device))


def _attempt(device: torch.device) -> bool:
    from . import kernels

    rows = torch.ones(2, 16, device=device)
    matrix = kernels.Matrix(rows, torch.ones_like(rows), directions=True)
    matrix.step(Adam([rows]), 1 / matrix.squares().sum().clamp_min(1.0), 1)
    return bool(rows.isfinite().all())


def reconstruct(
    x: Tensor, bias: Tensor, encoder: Tensor, encoder_bias: Tensor, decoder: Tensor, before: Tensor, chosen: Chosen
) -> tuple[Tensor, Tensor]:
    """What the chosen codes add to the bias (n, d_in), with the gradients of the four, and the codes (m,) without.

    As `kept_codes`, a ReLU and `sum_rows` do together.
    """
    summed, values = _Reconstruction.apply(x, bias, encoder, encoder_bias, decoder, before, *chosen)
    return summed, values


class _Reconstruction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        x, bias, encoder, _, decoder, before, tokens, features, starts = given
        values = before[tokens, features].float().relu()
        ctx.save_for_backward(x, bias, encoder, decoder, tokens, features, values)
        ctx.products = before.dtype
        ctx.mark_non_differentiable(values)
        return sums_of_rows(decoder, features, values, starts), values

    @staticmethod
    def backward(ctx: Any, *of_results: Tensor) -> tuple[Tensor | None, ...]:
        from .sparse_kernels import gradients

        x, bias, encoder, decoder, tokens, features, values = ctx.saved_tensors
        gradient, centred = (tensor.to(ctx.products).contiguous() for tensor in (of_results[0], x - bias))
        found = gradients(decoder, gradient, centred, tokens, features, values)
        of_bias = -(found.encoder_bias @ encoder)
        return None, of_bias, found.encoder, found.encoder_bias, found.decoder, None, None, None, None
