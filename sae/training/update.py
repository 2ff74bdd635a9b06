"""What happens to the weights in a step, once they have their gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam

from .fast.reconstruction import have_kernels
from .topk import TopKModel

ADAM_EPSILON = 6.25e-10  # Gao et al. 2024, appendix A.3: small, as gradients are

# (model with gradients, its optimizer, largest norm of the whole gradient, number of the step, from 1)
Update = Callable[[TopKModel, Adam, float, int], None]


def adam(model: TopKModel, rate: float) -> Adam:
    """The fused one, which is several times as fast, where the device has it."""
    try:
        return Adam(model.parameters(), lr=rate, eps=ADAM_EPSILON, fused=True)
    except RuntimeError:
        return Adam(model.parameters(), lr=rate, eps=ADAM_EPSILON)


def update(model: TopKModel, optimizer: Adam, clip_norm: float, number: int) -> None:
    """A step of Adam, with decoder directions of unit length before and after."""
    model.drop_parallel_gradient()
    clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    model.normalize_decoder()


def update_by_rows(model: TopKModel, optimizer: Adam, clip_norm: float, number: int) -> None:
    """The same with kernels for the two matrices, which go through memory twice rather than eight times."""
    from .fast import kernels

    pairs = ((model.encoder, False), (model.decoder, True))
    matrices = [kernels.Matrix(weight, _taken(weight), directions) for weight, directions in pairs]
    biases = [one.grad for one in (model.bias, model.encoder_bias) if one.grad is not None]
    squares = torch.cat([*(matrix.squares() for matrix in matrices), *(bias.square() for bias in biases)])
    shrink = (clip_norm / (squares.sum().sqrt() + 1e-6)).clamp_max(1.0)  # as clip_grad_norm_ does
    for bias in biases:
        bias.mul_(shrink)
    for matrix in matrices:
        matrix.step(optimizer, shrink, number)
    optimizer.step()  # the biases; the matrices' gradients were taken


def fastest_update(weight: Tensor) -> Update:
    """The one with kernels, where there are some for such weights."""
    return update_by_rows if have_kernels(weight) else update


def _taken(weight: Tensor) -> Tensor:
    """The gradient, which the weight has no longer."""
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    weight.grad = None
    return gradient
