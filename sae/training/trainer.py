"""Trains a TopK SAE on batches of tokens: optimizer, schedule, dead features, progress, checkpoints."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam

from ..files.whole import replacing
from .config import TopKConfig
from .distributed import OneProcess, Peers
from .fast.reconstruction import have_kernels
from .topk import Losses, TopKModel

GRADIENT = "of a token's squared error"  # what Adam's moments in a checkpoint are made of; before, of its share


class Progress(NamedTuple):
    """Where a training run stands after a step; the numbers are those of the step's batch."""

    step: int  # steps done
    steps: int
    rate: float
    explained_variance: float
    auxiliary: float  # auxiliary loss before its weight
    dead_share: float


OnProgress = Callable[[Progress], None]


class TopKTrainer:
    """One training run. It can be stopped between steps, saved, and carried on to the same result.

    With `peers` each process gives batches of its own, and all hold the same weights.
    """

    def __init__(
        self, config: TopKConfig, device: torch.device | str = "cpu", peers: Peers | None = None, name: str = ""
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.peers = peers or OneProcess()
        self.name = name  # of the site, for messages
        self.model = TopKModel(config).to(self.device)
        self.optimizer = adam(self.model, config.rate)
        self._update_weights = fastest_update(self.model.encoder)
        self.silent_tokens = torch.zeros(config.d_sae, dtype=torch.int64, device=self.device)
        self.averages = [p.detach().clone() for p in self.model.parameters()] if config.average else []
        self.step = 0
        self._dead_count = 0

    @property
    def dead(self) -> Tensor:
        """(d_sae,) bool: features that have not fired for `dead_tokens` tokens."""
        return self._is_dead(self.silent_tokens)

    def train_step(self, batch: Tensor) -> Losses:
        """One step on tokens (n, d_in). Raises ValueError for another width or a loss that is not finite."""
        if batch.ndim != 2 or batch.shape[1] != self.config.d_in:
            raise ValueError(f"batch: this SAE trains on tokens (n, {self.config.d_in}), but got {tuple(batch.shape)}.")
        batch = batch.to(self.device, torch.float32)
        if self.step == 0:
            self.model.fit_to(self.peers.gather(batch))
        losses = self._merged(self.model.losses(batch, self.dead, self.peers, self._dead_count))
        silent = (self.silent_tokens + len(batch) * self.peers.count).masked_fill_(losses.fired, 0)
        # both at once: the only time in a step that a GPU is waited for
        loss, dead = torch.stack([losses.total.detach(), self._is_dead(silent).sum().float()]).tolist()
        if not math.isfinite(loss):
            where = f" at {self.name}" if self.name else ""
            raise ValueError(f"batch: the loss of step {self.step + 1}{where} is {loss}; use finite activations.")
        self._update(losses)
        self.silent_tokens.copy_(silent)
        self._dead_count = int(dead)
        self.step += 1
        return losses

    def fit(
        self,
        batches: Iterable[Tensor],
        on_progress: OnProgress | None = None,
        report_every: int = 50,
        checkpoint: Path | None = None,
        save_every: int = 1000,
    ) -> TopKModel:
        """Trains up to the configured number of steps and returns the result.

        `on_progress` may raise to cancel: the exception passes through, and with `checkpoint` the state is saved
        first. To carry on, `load` the checkpoint and give the batches that were not used yet.
        """
        source: Iterator[Tensor] = iter(batches)
        saved = self.step
        try:
            while self.step < self.config.steps:
                losses = self.train_step(self._next(source))
                if on_progress is not None and (self.step % report_every == 0 or self.step == self.config.steps):
                    on_progress(self.progress(losses))
                if checkpoint is not None and self.step % save_every == 0:
                    self.save(checkpoint)
                    saved = self.step
        finally:
            if checkpoint is not None and saved != self.step:
                self.save(checkpoint)
        return self.result()

    def result(self) -> TopKModel:
        """The trained model: its weights, or their running average where the configuration asks for it."""
        if not self.averages:
            return self.model
        averaged = deepcopy(self.model)
        with torch.no_grad():
            for parameter, average in zip(averaged.parameters(), self.averages, strict=True):
                parameter.copy_(average)
        averaged.normalize_decoder()
        return averaged

    def progress(self, losses: Losses) -> Progress:
        """Where the run stands after the step that gave these losses."""
        return Progress(
            step=self.step,
            steps=self.config.steps,
            rate=self.optimizer.param_groups[0]["lr"],
            explained_variance=1 - losses.reconstruction.item(),
            auxiliary=losses.auxiliary.item(),
            dead_share=float(self.dead.float().mean()),
        )

    def save(self, path: Path) -> None:
        """Writes a checkpoint that `torch.load(weights_only=True)` reads; an old one is replaced in one go."""
        write_checkpoint(path, self.state())

    def load(self, path: Path) -> None:
        """Takes up a checkpoint. Raises ValueError when it belongs to another configuration."""
        self.resume(read_checkpoint(path), path.name)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain values; shared with the trainer."""
        return {
            "gradient": GRADIENT,
            "config": asdict(self.config),
            "step": self.step,
            "silent_tokens": self.silent_tokens,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages,
        }

    def resume(self, state: Mapping[str, Any], label: str) -> None:
        """Goes on from a state. ValueError, beginning with `label`, when another configuration or version made it."""
        if state.get("gradient") != GRADIENT:
            raise ValueError(
                f"{label}: this checkpoint was made by an older version, whose steps had another size; remove it to "
                "begin anew."
            )
        theirs, ours = state["config"], asdict(self.config)
        other = next((name for name in ours if theirs.get(name) != ours[name]), None)
        if other is not None:
            raise ValueError(
                f"{label}: the checkpoint was trained with {other} = {theirs.get(other)!r}, "
                f"but this run has {ours[other]!r}; use the same configuration."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.silent_tokens.copy_(state["silent_tokens"])
        self._dead_count = int(self.dead.sum())
        self.averages = [average.to(self.device) for average in state["averages"]]
        self.step = state["step"]

    def _is_dead(self, silent_tokens: Tensor) -> Tensor:
        return silent_tokens >= self.config.dead_tokens

    def _merged(self, losses: Losses) -> Losses:
        """What is told of the step, over all processes; the gradient still hangs on `total`."""
        told = torch.stack([losses.reconstruction.detach(), losses.auxiliary.detach()])
        reconstruction, auxiliary = self.peers.mean(told)
        fired = self.peers.any(losses.fired)
        return losses._replace(reconstruction=reconstruction, auxiliary=auxiliary, fired=fired)

    def _update(self, losses: Losses) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate_at(self.step)
        self.optimizer.zero_grad()
        # a token's squared error, in scaled units: as long as this gradient is above `clip_norm`, which it is for long,
        # its length is always the same, and Adam does not remember how much longer it was in the beginning
        (losses.total * self.config.d_in).backward()
        for parameter in self.model.parameters():
            if self.peers.count > 1 and parameter.grad is not None:
                parameter.grad = self.peers.mean(parameter.grad)
        self._update_weights(self.model, self.optimizer, self.config.clip_norm, self.step + 1)
        if self.config.over_batch:
            self.model.follow_threshold(self.peers.mean(losses.smallest), first=self.step == 0)
        for average, parameter in zip(self.averages, self.model.parameters(), strict=bool(self.averages)):
            average.lerp_(parameter.detach(), 1 - self.config.average)

    def _next(self, source: Iterator[Tensor]) -> Tensor:
        batch = next(source, None)
        if batch is None:
            raise ValueError(
                f"batches: they ended after step {self.step} of {self.config.steps}; give more tokens or fewer steps."
            )
        return batch


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replaces a checkpoint in one go; UnwritableError where the system does not let us, and the old one stays."""
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:  # what torch makes of a write that fails
            raise OSError(errno.EIO, "the disk may be full") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint; ValueError where the file is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(f"{path.name}: this checkpoint cannot be read; remove it to begin anew.") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path.name}: this is no checkpoint of training; remove it to begin anew.")
    return state


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
