"""python -m sae train"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..hosts.accelerate import Processes, launched_processes
from ..hosts.sae_lens import SPARSITY
from ..training.config import TopKConfig
from ..training.run import RunProgress, RunSettings, TrainingRun, memory_of, size_of_bytes
from ..training.shards import KeepingSource, ShardWriter, bytes_of
from ..training.source import Source
from .job_progress import stopped_by_signals
from .progress_log import CSV, ProgressBar, ProgressLog, open_log
from .sae_report import table, write_result
from .train_sae_lens import check_trainable, train_with_sae_lens
from .train_settings import SAE_LENS, TRAINERS, Settings, add_flags, read_settings
from .train_sources import build_source

HELP = "Trains SAEs on a model's activations or on embeddings; the same command goes on with a run that was stopped."
CHECKPOINT = "training.pt"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "config", type=Path, nargs="?", help="TOML file with values by the flags' names (a_b for --a-b)"
    )
    add_flags(parser)


def run(arguments: Namespace) -> None:
    settings = read_settings(arguments, arguments.config)
    if not settings.out:
        raise ValueError("out: the result needs a folder; give --out FOLDER.")
    _check_choice("dtype", settings.dtype, tuple(DTYPES))
    with launched_processes(settings.device) as peers:
        _run(settings, Path(settings.out), peers)


def _run(settings: Settings, out: Path, peers: Processes | None) -> None:
    _check_trainer(settings, 1 if peers is None else peers.count)
    if peers is not None:
        settings = replace(settings, device=peers.device)
    leads = peers is None or peers.rank == 0
    source = build_source(settings)
    widths = {name: chunk.tokens.shape[1] for name, chunk in source.training(0).items()}
    if settings.trainer == SAE_LENS:
        train_with_sae_lens(_keeping(source, widths, settings) if settings.keep else source, widths, settings)
        return
    configs = {name: settings.config(width) for name, width in widths.items()}
    run_settings = RunSettings(
        settings.buffer_tokens, report_every=settings.report_every, save_every=settings.save_every
    )
    if leads:
        _tell_size(configs, run_settings)
    if settings.keep and leads:
        source = _keeping(source, widths, settings)
    training = TrainingRun(source, configs, out / CHECKPOINT, run_settings, settings.device, peers)
    _train(training, open_log(settings.log if leads else "", out, training.step), leads)
    if leads:
        finish(training, settings, out)


def _train(training: TrainingRun, log: ProgressLog, leads: bool) -> None:
    start = training.step
    if start and leads:
        print(f"Going on from step {start} of {training.steps}.")
    bar = ProgressBar(training.steps, start, leads)
    try:
        with stopped_by_signals(training):
            for progress in training.go():
                log.add(progress)
                bar.show(progress.step, _told(progress))
    finally:
        bar.close()
        log.close()
    if training.step < training.steps:
        if leads:
            print(f"\nStopped at step {training.step}; the same command goes on from there.")
        raise KeyboardInterrupt


def _told(progress: RunProgress) -> str:
    """The mean over the sites."""
    count = len(progress.sites)
    explained = sum(one.explained_variance for one in progress.sites.values()) / count
    dead = sum(one.dead_share for one in progress.sites.values()) / count
    return f"explained variance {explained:.3f}, dead {dead:.1%}"


def finish(training: TrainingRun, settings: Settings, out: Path) -> None:
    """Writes each SAE into a folder of its own, with what it does on tokens it has not seen."""
    about = {"source": settings.source, **training.source.about}
    for name, model in training.results().items():
        path, card = write_result(
            model, name, out / name, training.source, settings.held_out_tokens, settings.tried_features, about,
            dtype=DTYPES[settings.dtype], log=out / CSV,
        )  # fmt: skip
        print(f"\n{table(card)}\n{path}")


def _tell_size(configs: Mapping[str, TopKConfig], settings: RunSettings) -> None:
    memory = sum(memory_of(config, settings) for config in configs.values())
    print(f"Training {', '.join(configs)} takes {size_of_bytes(memory)} of memory besides the model.")


def _keeping(source: Source, widths: Mapping[str, int], settings: Settings) -> Source:
    folder = Path(settings.keep)
    size = bytes_of(settings.keep_tokens, widths)
    print(f"Up to {settings.keep_tokens:,} tokens of each site go to {folder}: {size_of_bytes(size)}.")
    return KeepingSource(source, ShardWriter(folder, source.sites, widths, settings.keep_tokens))


def _check_trainer(settings: Settings, processes: int) -> None:
    _check_choice("trainer", settings.trainer, TRAINERS)
    if settings.trainer == SAE_LENS:
        check_trainable(settings, processes)
    elif settings.architecture in SPARSITY:
        raise ValueError(f"architecture: {settings.architecture} is trained by SAELens; give --trainer {SAE_LENS} too.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is not known; use one of {', '.join(choices)}.")
