"""Triton's part of a training step: what Adam does to a matrix, row by row, each number read and written once.

On a GPU a step waits for memory more than for arithmetic, and torch's own operations go through each matrix
many times. Imported only where Triton is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.optim import Adam

from ...dictionary.fast.kernels import warps

PER_WARP = 512


@triton.jit
def _measure(gradient, weight, along, squares, width, directions: tl.constexpr, block: tl.constexpr):
    """Of each row of directions: how much of the gradient lies along it. Of each row: the squares of what is left."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    g = tl.load(gradient + row * width + columns, mask=inside, other=0.0)
    if directions:
        w = tl.load(weight + row * width + columns, mask=inside, other=0.0)
        part = tl.sum(g * w, axis=0)
        tl.store(along + row, part)
        g -= part * w
    tl.store(squares + row, tl.sum(g * g, axis=0))


@triton.jit
def _adam(
    gradient, weight, mean, square, along, shrink, width, rate, new1, keep2, new2, root2, epsilon,
    directions: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Adam's step, of a gradient less what lies along the row, and shrunk; directions are of unit length again."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    here = row * width + columns
    g = tl.load(gradient + here, mask=inside, other=0.0)
    w = tl.load(weight + here, mask=inside, other=0.0)
    m = tl.load(mean + here, mask=inside, other=0.0)
    v = tl.load(square + here, mask=inside, other=0.0)
    if directions:
        g -= tl.load(along + row) * w
    g *= tl.load(shrink)
    m += new1 * (g - m)
    v = keep2 * v + new2 * g * g
    w -= rate * m / (tl.sqrt(v) / root2 + epsilon)
    if directions:
        w /= tl.maximum(tl.sqrt(tl.sum(w * w, axis=0)), 1e-12)
    tl.store(mean + here, m, mask=inside)
    tl.store(square + here, v, mask=inside)
    tl.store(weight + here, w, mask=inside)


class Matrix:
    """Weights (rows, width) with their gradient; of `directions` every row keeps unit length."""

    def __init__(self, weight: Tensor, gradient: Tensor, directions: bool) -> None:
        self.weight, self.gradient, self.directions = weight, gradient.contiguous(), directions
        self.rows, self.width = weight.shape
        self.block = triton.next_power_of_2(self.width)
        self.warps = warps(self.width, PER_WARP)
        self.along = weight.new_empty(self.rows)  # of each row's gradient, along the row

    def squares(self) -> Tensor:
        """(rows,): of the gradient, of directions without what lies along them, which `step` takes off too."""
        squares = torch.empty_like(self.along)
        with torch.cuda.device_of(self.weight):
            _measure[(self.rows,)](
                self.gradient, self.weight, self.along, squares, self.width, self.directions, self.block,
                num_warps=self.warps,
            )  # fmt: skip
        return squares

    def step(self, optimizer: Adam, shrink: Tensor, number: int) -> None:
        """Adam's step of this number, from 1, with its own state; the gradient counts times `shrink`, one number."""
        (group,) = optimizer.param_groups
        state = optimizer.state[self.weight]
        if not state:
            state["step"] = torch.zeros((), device=self.weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        state["step"] += 1
        first, second = group["betas"]
        rate, root = group["lr"] / (1 - first**number), (1 - second**number) ** 0.5
        with torch.cuda.device_of(self.weight):
            _adam[(self.rows,)](
                self.gradient, self.weight, state["exp_avg"], state["exp_avg_sq"], self.along, shrink, self.width,
                rate, 1 - first, second, 1 - second, root, group["eps"], self.directions, self.block,
                num_warps=self.warps,
            )  # fmt: skip
