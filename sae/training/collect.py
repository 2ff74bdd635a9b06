"""Collecting tokens first and training on them later, so that the model need not stay in memory meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..finding.features import cond_parts
from ..places.moment import Moment, unheard
from ..places.site import Site
from .config import TopKConfig
from .shards import ShardWriter, bytes_of
from .source import Model, ModelSource, Source, check_one_block, check_some
from .trainer import TopKTrainer

RUN_TOKENS = 4096  # of one run, so that others have room
FEWEST_RUNS = 20  # that the tokens come from


def collect(
    source: Source,
    folder: Path,
    widths: Mapping[str, int],
    tokens: int,
    on_tokens: Callable[[int], None] = unheard,
    what: str = "keep",
) -> None:
    """Writes shards of `tokens` of each site into a folder; stopped in between, it goes on behind the last whole one.

    `on_tokens` hears how many there are after each call and may raise to cancel. `what` is the input that asked.
    """
    writer = ShardWriter(folder, source.sites, widths, tokens, what)
    writer.check(source.about)
    number = writer.calls
    while not writer.full:
        writer.add(number, source.training(number), source.about)
        number += 1
        waiting = [sum(len(chunk.tokens) for chunk in chunks) for chunks in writer.waiting.values()]
        on_tokens(min(kept + more for kept, more in zip(writer.kept.values(), waiting, strict=True)))


@dataclass(frozen=True)
class OneRun:
    """What one run of a model gives, tried before many are planned."""

    tokens: Mapping[str, int]  # by the name of the site
    widths: Mapping[str, int]
    seconds: float

    def shares(self, wanted: int) -> dict[str, float]:
        """Of each site's tokens of a run, how many are kept, so that `wanted` come from many runs."""
        most = min(RUN_TOKENS, wanted / FEWEST_RUNS)
        return {name: min(1.0, most / count) for name, count in self.tokens.items()}

    def runs(self, wanted: int) -> int:
        """After how many each site has so many."""
        kept = [share * count for share, count in zip(self.shares(wanted).values(), self.tokens.values(), strict=True)]
        return math.ceil(wanted / min(kept))


def try_run(model: Model, sites: Mapping[str, Site]) -> OneRun:
    """The second of two runs: the first loads the model. ValueError where it does not come to a site."""
    counts = dict.fromkeys(sites, 0)
    widths: dict[str, int] = {}

    def seeing(name: str) -> Callable[[Tensor, Moment], None]:
        def see(x: Tensor, moment: Moment) -> None:
            counts[name] += sum(rows.shape[0] * rows.shape[1] for rows, _ in cond_parts(x, moment))
            widths[name] = x.shape[-1]

        return see

    model.run(0, 0)
    begun = time.perf_counter()
    with ExitStack() as stack:
        for name, site in sites.items():
            stack.enter_context(model.observe(site, seeing(name)))
        model.run(0, 0)
    seconds = time.perf_counter() - begun
    empty = next((str(sites[name]) for name, count in counts.items() if not count), None)
    if empty is not None:
        raise ValueError(f"location: the model ran and gave no tokens at {empty}; choose a place that it computes.")
    return OneRun(counts, widths, seconds)


@dataclass(frozen=True)
class Collection:
    """Tokens of several sites of a model that are to be collected, `tokens` of each, from the same runs."""

    model: Model
    sites: Mapping[str, Site]
    tokens: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_some(self.sites)
        check_one_block(self.sites.values())

    @cached_property
    def one(self) -> OneRun:
        return try_run(self.model, self.sites)

    @property
    def source(self) -> ModelSource:
        return ModelSource(self.model, self.sites, self.one.shares(self.tokens), self.seed)

    @property
    def seconds(self) -> float:
        """What it will take."""
        return self.one.runs(self.tokens) * self.one.seconds

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return bytes_of(self.tokens, self.one.widths)

    def into(self, folder: Path, on_tokens: Callable[[int], None] = unheard, what: str = "tokens") -> None:
        """Collects into a folder of shards; see `collect`."""
        collect(self.source, folder, self.one.widths, self.tokens, on_tokens, what)


def seconds_a_step(config: TopKConfig, device: torch.device | str = "cpu") -> float:
    """Measured on noise, with a trainer that is thrown away."""
    trainer = TopKTrainer(config, device)
    batch = torch.randn(config.batch_tokens, config.d_in, generator=torch.Generator().manual_seed(0))
    trainer.train_step(batch)
    begun = time.perf_counter()
    trainer.train_step(batch)  # it reads its loss, so a GPU is waited for
    return time.perf_counter() - begun
