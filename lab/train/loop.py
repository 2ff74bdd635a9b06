"""The loop that trains each part of the demo models: Muon or AdamW, averaged weights, checkpoints that resume."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from .muon import Muon

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
