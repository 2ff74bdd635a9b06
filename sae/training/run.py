"""A training run: one source, one SAE for each of its sites side by side, one checkpoint.

It goes on from its checkpoint to bit-identical weights on the same processor: the checkpoint holds the number of the
next call, the buffers' tokens and random states, and the trainers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .buffer import MixingBuffer
from .config import TopKConfig
from .distributed import OneProcess, Peers
from .source import Source, sift
from .topk import TopKModel
from .trainer import Progress, TopKTrainer, read_checkpoint, write_checkpoint

BUFFER_TOKENS = 65_536
EMPTY_CALLS = 1_000  # so many calls without a token for a hungry buffer mean that none will come


@dataclass(frozen=True)
class RunSettings:
    """What does not change the configuration of an SAE."""

    buffer_tokens: int = BUFFER_TOKENS
    buffer_dtype: torch.dtype = torch.bfloat16
    report_every: int = 50
    save_every: int = 500  # steps


class RunProgress(NamedTuple):
    """Where a run stands."""

    step: int
    steps: int
    tokens: int  # that each SAE has been trained on, over all processes
    set_aside: int  # outliers so far, of all sites
    sites: Mapping[str, Progress]


class TrainingRun:
    """Trains an SAE for each site of a source; iterate `go()`, and stop whenever you like."""

    def __init__(
        self,
        source: Source,
        configs: Mapping[str, TopKConfig],
        checkpoint: Path | None = None,
        settings: RunSettings | None = None,
        device: torch.device | str = "cpu",
        peers: Peers | None = None,
    ) -> None:
        """Goes on from `checkpoint` if it exists; ValueError where that is of another configuration or other tokens."""
        self.source, self.configs, self.settings = source, dict(configs), settings or RunSettings()
        self.peers = peers or OneProcess()
        _check(source, self.configs)
        rank = self.peers.rank
        self.trainers = {name: TopKTrainer(one, device, peers, name) for name, one in self.configs.items()}
        self.buffers = {
            name: MixingBuffer(
                one.d_in,
                one.batch_tokens,
                max(self.settings.buffer_tokens, 2 * one.batch_tokens),
                one.seed + rank,
                self.settings.buffer_dtype,
            )
            for name, one in self.configs.items()
        }
        self.call = rank  # the next of the source; each process takes every `count`-th
        self.set_aside = 0
        self.checkpoint = checkpoint
        self.stopping = False  # set, it ends the iteration after the step under way
        self._saved, self._whole = 0, True
        if checkpoint is not None and checkpoint.is_file():
            self._resume(checkpoint)

    @property
    def steps(self) -> int:
        return next(iter(self.configs.values())).steps

    @property
    def step(self) -> int:
        return next(iter(self.trainers.values())).step

    def go(self) -> Generator[RunProgress, None, None]:
        """Trains to the end, telling the progress now and then.

        However the iteration ends, the checkpoint is saved, unless that was in the middle of a step: then the last one
        counts. What the source raises passes through.
        """
        try:
            while self.step < self.steps and not self.stopping:
                self._feed()
                self._whole = False
                losses = {name: trainer.train_step(self._batch(name)) for name, trainer in self.trainers.items()}
                self._whole = True
                if self.step % self.settings.save_every == 0:
                    self.save()
                if self.step % self.settings.report_every == 0 or self.step == self.steps:
                    yield self._progress({name: self.trainers[name].progress(one) for name, one in losses.items()})
        finally:
            if self._whole:
                self.save()

    def results(self) -> dict[str, TopKModel]:
        """The trained models by site."""
        return {name: trainer.result() for name, trainer in self.trainers.items()}

    def save(self) -> None:
        """Writes the checkpoint, if there is one to write and steps were made since the last."""
        if self.checkpoint is None or self._saved == self.step:
            return
        write_checkpoint(_of_rank(self.checkpoint, self.peers.rank), self._state())
        self._saved = self.step

    def _feed(self) -> None:
        """Calls the source until no buffer has too little to draw its next batches from."""
        empty = 0
        while any(buffer.hungry for buffer in self.buffers.values()):
            chunks = self.source.training(self.call)
            sifted = {name: sift(chunks[name], name) for name, buffer in self.buffers.items() if buffer.hungry}
            self._whole = False
            taken = sum(self.buffers[name].add(chunk.tokens) for name, (chunk, _) in sifted.items())
            self.set_aside += sum(outliers for _, outliers in sifted.values())
            self.call += self.peers.count
            self._whole = True
            empty = 0 if taken else empty + 1
            if empty == EMPTY_CALLS:
                raise ValueError(f"source: {EMPTY_CALLS} calls gave no tokens; give prompts or data that have some.")

    def _batch(self, name: str) -> torch.Tensor:
        batch = self.buffers[name].take(device=self.trainers[name].device)
        if batch is None:
            raise RuntimeError(f"the buffer of {name} was filled, but has no batch")
        return batch

    def _progress(self, sites: Mapping[str, Progress]) -> RunProgress:
        tokens = self.step * next(iter(self.configs.values())).batch_tokens * self.peers.count
        return RunProgress(self.step, self.steps, tokens, self.set_aside, sites)

    def _state(self) -> dict[str, Any]:
        return {
            "about": dict(self.source.about),
            "processes": self.peers.count,
            "step": self.step,
            "call": self.call,
            "set_aside": self.set_aside,
            # alike in all processes
            "trainers": {n: one.state() for n, one in self.trainers.items()} if self.peers.rank == 0 else {},
            "buffers": {name: buffer.state() for name, buffer in self.buffers.items()},
        }

    def _resume(self, path: Path) -> None:
        own = _of_rank(path, self.peers.rank)
        state = read_checkpoint(own)
        first = state if own == path else read_checkpoint(path)
        if not {"about", "step", "call", "trainers", "buffers"} <= set(state) & set(first):
            raise ValueError(f"{own.name}: this is no checkpoint of a training run; choose another folder.")
        if state["step"] != first["step"]:
            raise ValueError(
                f"{own.name}: it is of step {state['step']}, but {path.name} of step {first['step']}, because the "
                "processes were stopped while they saved; remove all checkpoints to begin anew."
            )
        self._check_same(own.name, state)
        for name, trainer in self.trainers.items():
            trainer.resume(first["trainers"][name], path.name)
            self.buffers[name].resume(state["buffers"][name])
        self.call, self.set_aside, self._saved = state["call"], state["set_aside"], state["step"]

    def _check_same(self, label: str, state: Mapping[str, Any]) -> None:
        facts = {"sites": sorted(self.configs), "processes": self.peers.count, **self.source.about}
        theirs = {"sites": sorted(state["buffers"]), "processes": state["processes"], **state["about"]}
        other = next((name for name in {**facts, **theirs} if facts.get(name) != theirs.get(name)), None)
        if other is not None:
            raise ValueError(
                f"{label}: the checkpoint was trained with {other} = {theirs.get(other)!r}, but this run has "
                f"{facts.get(other)!r}; use the same, or another folder."
            )


def memory_of(config: TopKConfig, settings: RunSettings) -> int:
    """Bytes besides the model: weights, gradients, Adam's two, an average, the buffer, the codes of one batch."""
    copies = 5 if config.average else 4
    weights = copies * 2 * config.d_sae * config.d_in * 4
    buffer = max(settings.buffer_tokens, 2 * config.batch_tokens) * config.d_in * settings.buffer_dtype.itemsize
    return weights + buffer + 2 * config.batch_tokens * config.d_sae * 4


def size_of_bytes(count: int) -> str:
    """For people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _of_rank(path: Path, rank: int) -> Path:
    return path if rank == 0 else path.with_name(f"{path.stem}.{rank}{path.suffix}")


def _check(source: Source, configs: Mapping[str, TopKConfig]) -> None:
    unknown = [name for name in configs if name not in source.sites]
    if unknown or not configs:
        had = ", ".join(source.sites)
        raise ValueError(f"sites: the source gives {had}, but {', '.join(unknown) or 'none'} is to be trained.")
    if len({(config.steps, config.batch_tokens) for config in configs.values()}) > 1:
        raise ValueError("steps: SAEs that train side by side need the same number of steps and of tokens a batch.")
