"""The loop that trains each part of the demo models: Muon or AdamW, averaged weights, checkpoints that resume."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

log = logging.getLogger(__name__)

PULL = 0.004  # of a step's weights on the averaged ones
WARM_UP = 0.02  # of all steps
FALL_FROM = 0.5  # the rate stays until here, then falls to zero in a straight line
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
LOG_EVERY = 50
SAVE_EVERY = 500

LossOf = Callable[[random.Random, torch.Generator], Tensor]
Choose = Callable[[str, nn.Parameter], bool]


def block_matrices(name: str, parameter: nn.Parameter) -> bool:
    """The two-dimensional weights of a transformer's blocks, which Muon is made for (Jordan et al. 2024)."""
    return parameter.ndim == 2 and "transformer_blocks." in name


def fit(
    model: nn.Module,
    loss_of: LossOf,
    steps: int,
    rate: float,
    checkpoint: Path,
    seed: int = 1,
    muon: Choose = lambda name, parameter: False,
) -> dict[str, Tensor]:
    """Trains `model` in place on `loss_of(rng, generator)` and returns its averaged weights.

    Carries on from `checkpoint` where that exists, to the same result: what is drawn at a step follows from `seed` and
    the step's number. `rate` is the highest learning rate; `muon` chooses the parameters that AdamW leaves to Muon.
    """
    model.train()
    average = AveragedModel(model, avg_fn=_follow)
    optimizers = _optimizers(model, rate, muon)
    schedules = [LambdaLR(optimizer, lambda step: rate_at(step / steps)) for optimizer in optimizers]
    parts: dict[str, Any] = {"model": model, "average": average}
    parts |= {f"optimizer {number}": optimizer for number, optimizer in enumerate(optimizers)}
    parts |= {f"schedule {number}": schedule for number, schedule in enumerate(schedules)}
    first = _resume(parts, checkpoint)
    running = 0.0
    for step in range(first, steps):
        draws = seed * 1_000_003 + step
        loss = loss_of(random.Random(draws), torch.Generator().manual_seed(draws))
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        for part in (*optimizers, *schedules):
            part.step()
        average.update_parameters(model)
        running += loss.item()
        if (step + 1) % LOG_EVERY == 0:
            log.info("%s: step %d of %d, loss %.4f", checkpoint.stem, step + 1, steps, running / LOG_EVERY)
            running = 0.0
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            _save(parts, step + 1, checkpoint)
    return average.module.state_dict()


def rate_at(share: float) -> float:
    """Factor of the learning rate at a share of the run."""
    return min(1.0, (share + 1e-4) / WARM_UP, (1 - share) / (1 - FALL_FROM))


def _optimizers(model: nn.Module, rate: float, muon: Choose) -> list[torch.optim.Optimizer]:
    chosen = [weight for name, weight in model.named_parameters() if muon(name, weight)]
    rest = [weight for name, weight in model.named_parameters() if not muon(name, weight)]
    adamw = torch.optim.AdamW(rest, lr=rate, weight_decay=WEIGHT_DECAY)
    if not chosen:
        return [adamw]
    return [Muon(chosen, rate, WEIGHT_DECAY), adamw]


def _follow(average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
    """Faster at first, so that the average forgets the weights that training began with."""
    return torch.lerp(average, current, max(PULL, 9 / (10 + int(updates))))


def _resume(parts: dict[str, Any], checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    log.info("%s: carrying on at step %d", checkpoint.stem, state["step"])
    return int(state["step"])


def _save(parts: dict[str, Any], step: int, checkpoint: Path) -> None:
    unfinished = checkpoint.with_suffix(".tmp")
    torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step}, unfinished)
    unfinished.replace(checkpoint)


COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz step
ITERATIONS = 5
RMS = 0.2  # of an update, as AdamW's usually is (Liu et al. 2025)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum whose every matrix is brought near the closest orthogonal one.

    As torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`, but in float32: torch's own iterates in bfloat16, which
    takes twenty times as long on a processor that has no bfloat16. For two-dimensional weights only; `weight_decay` is
    decoupled, the momentum Nesterov's.
    """

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
