"""Muon (Jordan et al. 2024): momentum whose every matrix is brought near the closest orthogonal one.

As torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`, but in float32: torch's own iterates in bfloat16, which takes
twenty times as long on a processor that has no bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz step
ITERATIONS = 5
RMS = 0.2  # of an update, as AdamW's usually is (Liu et al. 2025)


class Muon(torch.optim.Optimizer):
    """For two-dimensional weights only; `weight_decay` is decoupled, the momentum Nesterov's."""

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.01, momentum: float = 0.95
    ) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for shape in {weight.shape for weight in weights}:
                self._update([weight for weight in weights if weight.shape == shape], group)

    def _update(self, weights: list[nn.Parameter], group: dict[str, float]) -> None:
        """One step of weights of one shape, orthogonalised together."""
        nudges = []
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
            velocity = self.state[weight]["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            nudges.append(torch.lerp(weight.grad, velocity, group["momentum"]))
        scale = RMS * max(weights[0].shape) ** 0.5
        for weight, nudge in zip(weights, orthogonalised(torch.stack(nudges)), strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.sub_(nudge, alpha=group["lr"] * scale)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Each of (n, rows, columns) with its singular values moved to about 1."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-7).view(-1, 1, 1)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
