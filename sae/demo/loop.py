"""The loop that trains each part of the demo models: AdamW, one cycle, averaged weights, checkpoints that resume."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

EMA = 0.999
LOG_EVERY = 50
SAVE_EVERY = 500

LossOf = Callable[[random.Random, torch.Generator], Tensor]


def fit(
    model: nn.Module, loss_of: LossOf, steps: int, rate: float, checkpoint: Path, seed: int = 1
) -> dict[str, Tensor]:
    """Trains `model` in place on `loss_of(rng, generator)` and returns its averaged weights.

    Carries on from `checkpoint` where that exists. `rate` is the highest learning rate.
    """
    model.train()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
    parts: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["step"]
        log.info("%s: carrying on at step %d", checkpoint.stem, first)
    generator, rng = torch.Generator().manual_seed(seed + first), random.Random(seed + first)
    running = 0.0
    for step in range(first, steps):
        loss = loss_of(rng, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _follow(average, model, 1 - min(EMA, (1 + step) / (10 + step)))
        running += loss.item()
        if (step + 1) % LOG_EVERY == 0:
            log.info("%s: step %d of %d, loss %.4f", checkpoint.stem, step + 1, steps, running / LOG_EVERY)
            running = 0.0
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            state = {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    return average.state_dict()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, pull: float) -> None:
    for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
        ours.lerp_(theirs, pull)
