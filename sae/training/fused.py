"""The reconstruction of a training step by kernels, where they work; torch's own operations are in sparse.py."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from .sparse import Chosen

WIDEST = 16_384  # numbers of a row that a program can hold


def have_kernels(weight: Tensor) -> bool:
    """Whether Triton has kernels for such weights (rows, d): it is there, finds its compiler, and a row fits."""
    return weight.is_cuda and weight.shape[1] <= WIDEST and _work(weight.device)


@lru_cache
@torch.no_grad()
def _work(device: torch.device) -> bool:
    """Tried on a few rows: Triton says in many ways that something is missing. Torch's own operations always work."""
    try:
        from . import kernels, kernels_sparse

        rows = torch.ones(2, 16, device=device)
        matrix = kernels.Matrix(rows, torch.ones_like(rows), directions=True)
        matrix.step(Adam([rows]), 1 / matrix.squares().sum().clamp_min(1.0), 1)
        first = torch.zeros(1, dtype=torch.int64, device=device)
        sums = kernels_sparse.decode(rows, first, torch.ones(1, device=device), first)
        return bool(sums.isfinite().all())
    except Exception:  # noqa: BLE001
        return False


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
        from .kernels_sparse import decode

        x, bias, encoder, _, decoder, before, tokens, features, starts = given
        values = before[tokens, features].float().relu()
        ctx.save_for_backward(x, bias, encoder, decoder, tokens, features, values)
        ctx.products = before.dtype
        ctx.mark_non_differentiable(values)
        return decode(decoder, features, values, starts), values

    @staticmethod
    def backward(ctx: Any, *of_results: Tensor) -> tuple[Tensor | None, ...]:
        from .kernels_sparse import gradients

        x, bias, encoder, decoder, tokens, features, values = ctx.saved_tensors
        gradient, centred = (tensor.to(ctx.products).contiguous() for tensor in (of_results[0], x - bias))
        found = gradients(decoder, gradient, centred, tokens, features, values)
        of_bias = -(found.encoder_bias @ encoder)
        return None, of_bias, found.encoder, found.encoder_bias, found.decoder, None, None, None, None
