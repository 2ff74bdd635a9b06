"""python -m sae train --trainer sae-lens: SAELens' trainers on the same tokens, with the same report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dictionary.statistics import statistics_path, write_statistics
from ..export.plain_sae import name_of
from ..formats import load
from ..hosts.sae_lens import SPARSITY, SaeLensConfig, SaeLensRun, check_installed
from ..training.buffer import MixedBatches, MixingBuffer
from ..training.card import evaluate_sae
from ..training.source import Source, sift
from .job_progress import stopped_by_signals
from .sae_report import held_out_tokens, measured_card, table, write_card
from .train_settings import Settings

FLUX_SOURCES = ("shapes", "diffusers")  # these run FLUX transformers, and no other family


def check_trainable(settings: Settings, processes: int) -> None:
    """ValueError where SAELens cannot train what is asked for."""
    if settings.architecture not in SPARSITY:
        raise ValueError(
            f"architecture: {settings.architecture!r} is not trained with SAELens here; use {', '.join(SPARSITY)}, or "
            "leave out the trainer."
        )
    if processes > 1:
        raise ValueError(f"trainer: SAELens trains in one process, but {processes} were launched; launch one.")
    check_installed()


def train_with_sae_lens(source: Source, widths: Mapping[str, int], settings: Settings) -> None:
    """Trains at the source's places, one after another, and writes each into a folder of its own."""
    for name, width in widths.items():
        config = _config(settings, width)
        run = SaeLensRun(config, iter(_batches(source, name, width, settings)))
        with stopped_by_signals(run):
            run.train()
        _write(run, config, name, source, settings)
        if run.step < settings.steps:
            print(f"\nStopped at step {run.step}; what is written is what it was then.")
            raise KeyboardInterrupt


def _config(settings: Settings, width: int) -> SaeLensConfig:
    return SaeLensConfig(
        settings.architecture,
        width,
        settings.features,
        settings.steps,
        settings.batch_tokens,
        settings.rate,
        settings.warmup_steps,
        round(settings.steps * settings.decay_share),
        settings.sparsity,
        settings.k,
        settings.seed,
        settings.device,
    )


def _batches(source: Source, name: str, width: int, settings: Settings) -> MixedBatches:
    def chunks() -> Iterator[Tensor]:
        for number in count():
            yield sift(source.training(number)[name], name)[0].tokens

    capacity = max(settings.buffer_tokens, 2 * settings.batch_tokens)
    return MixedBatches(chunks(), MixingBuffer(width, settings.batch_tokens, capacity, settings.seed, torch.bfloat16))


def _write(run: SaeLensRun, config: SaeLensConfig, name: str, source: Source, settings: Settings) -> None:
    folder, site = Path(settings.out) / name, source.sites[name]
    told = {
        "hook_name": None if site is None else name_of(site),
        "family": "FLUX.1" if settings.source in FLUX_SOURCES else None,
        "model_name": source.about.get("model", source.about.get("encoder")),
    }
    path = run.write(folder, {key: str(value) for key, value in told.items() if value is not None})
    sae = load(path)
    fit, statistics = evaluate_sae(sae, held_out_tokens(source, name, settings.held_out_tokens))
    write_statistics(statistics, statistics_path(path), sae.owner)
    trained: dict[str, Any] = {"trainer": "sae-lens", **vars(config), "steps": run.step}
    about = {"source": settings.source, **source.about}
    card = measured_card(sae, name, fit, statistics, source, settings.tried_features, trained, about)
    write_card(card, folder)
    print(f"\n{table(card)}\n{path}")
