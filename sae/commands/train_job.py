"""One SAE from its tokens to a folder of its own: collected where they must be, trained on, measured, put into place.

What was done before it was cancelled, or the program killed, is kept, and taken up where the same is asked again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..files.small_json import digest_of
from ..places.stream_taps import Tap
from ..training.collect import Collection, seconds_a_step
from ..training.config import TopKConfig
from ..training.run import RunSettings, TrainingRun, memory_of, size_of_bytes
from ..training.shards import ShardSource
from ..training.source import Source
from .job_progress import Host, Waiting
from .progress_log import CSV, CsvLog
from .sae_report import README, REPORT, table, write_result

HELD_OUT_TOKENS = 20_000
FEWEST_TOKENS = 1024
WEIGHTS = "model.safetensors"


class Compared(Protocol):
    """A model whose outputs tell what an SAE is worth to it."""

    @property
    def compared_alike(self) -> bool:
        """Whether there are enough of them to tell what a feature goes with."""
        ...

    def outputs(self, taps: Sequence[Tap]) -> Tensor:
        """See `sae/finding/recovery.py`."""
        ...


@dataclass(frozen=True)
class Job:
    """One SAE to train, of one site of a source."""

    place: str  # the site's name in the source
    config: TopKConfig
    result: Path  # the folder it gets
    called: str  # that folder, as it is told
    work: Path  # for folders with tokens and checkpoints of what is not done
    decided_by: tuple[object, ...]  # what decides the tokens; a run goes on only where all of it is the same
    held_out: int  # tokens that it is measured on
    tried_features: int = 0
    model: Compared | None = None  # to measure what the SAE is worth to it

    @property
    def key(self) -> str:
        """What decides the weights."""
        return digest_of([*self.decided_by, self.place, asdict(self.config)])

    @property
    def folder(self) -> Path:
        return self.work / self.key


def held_out_of(tokens: int) -> int:
    """How many of a model's tokens a training holds out; ValueError where there are too few for both."""
    if tokens < FEWEST_TOKENS:
        raise ValueError(f"tokens: {tokens:,} are too few to train and to measure on; give {FEWEST_TOKENS:,} or more.")
    return min(HELD_OUT_TOKENS, max(256, tokens // 20))


def make_sae(job: Job, tokens: Collection | Source, host: Host) -> tuple[Path, str]:
    """The weight file in the job's folder, and the report. ValueError where another SAE is there, or no room."""
    known = done_before(job)
    if known is not None:
        return known, (known.parent / README).read_text(encoding="utf-8")
    settings = RunSettings(report_every=1)
    collection = tokens if isinstance(tokens, Collection) else None
    collecting = 0.0 if collection is None else collection.seconds
    device = _room_for(job.config, settings, host)
    with torch.inference_mode(False), torch.enable_grad():  # ComfyUI's nodes run without gradients
        waiting = Waiting(host, collecting, job.config.steps * seconds_a_step(job.config, device))
    told = _told_before(job, settings, waiting, 0 if collection is None else collection.size)
    host.tell(told)
    if isinstance(tokens, Collection):
        wanted = tokens.tokens
        tokens.into(job.folder / "tokens", lambda count: waiting.collected(count, wanted))
        tokens = ShardSource(job.folder / "tokens", job.config.seed)
        device = _room_for(job.config, settings, host)  # the model is not needed meanwhile
    with torch.inference_mode(False), torch.enable_grad():
        run = _trained(job, tokens, settings, device, waiting)
    host.tell("Measuring the result.")
    report = _put_into_place(job, run)
    aside = f"{run.set_aside} tokens above ten times the median norm were set aside."
    return job.result / WEIGHTS, "\n".join([told, aside, report])


def done_before(job: Job) -> Path | None:
    """The weight file of the same training; ValueError where something else lies there."""
    if not job.result.exists():
        return None
    report = job.result / REPORT
    if report.is_file():
        told = json.loads(report.read_text(encoding="utf-8"))
        if isinstance(told, dict) and told.get("trained", {}).get("run") == job.key:
            return job.result / WEIGHTS
    raise ValueError(f"name: {job.called} is there already, and is another SAE; choose another name.")


def _told_before(job: Job, settings: RunSettings, waiting: Waiting, disk: int) -> str:
    room = size_of_bytes(memory_of(job.config, settings))
    on_disk = f", and {size_of_bytes(disk)} in output/sae until it is done" if disk else ""
    return (
        f"Training {job.config.d_sae:,} features at {job.place} takes about {waiting.minutes} min, {room} of memory"
        f"{on_disk}."
    )


def _trained(job: Job, source: Source, settings: RunSettings, device: torch.device, waiting: Waiting) -> TrainingRun:
    run = TrainingRun(source, {job.place: job.config}, job.folder / "training.pt", settings, device)
    with closing(CsvLog(job.folder / CSV, run.step)) as log, closing(run.go()) as going:
        for progress in going:
            log.add(progress)
            waiting.trained(progress)
    return run


def _put_into_place(job: Job, run: TrainingRun) -> str:
    """Measures the result and moves it, whole, to where it is listed; the table of what was measured."""
    result, done = run.results()[job.place], job.folder / "result"
    tried = job.tried_features if job.model is not None and job.model.compared_alike else 0
    outputs = None if job.model is None else job.model.outputs
    _, card = write_result(
        result, job.place, done, run.source, job.held_out, tried, dict(run.source.about),
        log=job.folder / CSV, outputs=outputs, run=job.key,
    )  # fmt: skip
    job.result.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(done, job.result)
    shutil.rmtree(job.folder)
    return table(card)


def _room_for(config: TopKConfig, settings: RunSettings, host: Host) -> torch.device:
    """The device to train on, with room made; ValueError where it has too little."""
    needed = memory_of(config, settings)
    device, free = host.make_room(needed)
    if free < needed:
        raise ValueError(
            f"d_sae: training {config.d_sae:,} features of width {config.d_in:,} takes {size_of_bytes(needed)} of "
            f"memory, but {size_of_bytes(free)} are free; give fewer features."
        )
    return device


def keep_tokens(collection: Collection, folder: Path, host: Host, what: str) -> str:
    """Fills a folder of shards, or goes on with one, and tells what it has. `what` is the input that names the folder.

    Cancelled, it keeps whole shards. ValueError where tokens of something else lie there, or the disk is full.
    """
    waiting = Waiting(host, collection.seconds)
    places = " and ".join(map(str, collection.sites.values()))
    told = (
        f"{collection.tokens:,} tokens of {places} take about {waiting.minutes} min, and "
        f"{size_of_bytes(collection.size)} in {folder}."
    )
    host.tell(told)
    collection.into(folder, lambda count: waiting.collected(count, collection.tokens), what)
    source = ShardSource(folder)
    lines = [f"{name}: {count:,} tokens of width {source.widths[name]:,}" for name, count in source.tokens.items()]
    again = f'Train SAE takes them, and so does: python -m sae train --source shards --data "{folder}" --out FOLDER'
    return "\n".join([told, *lines, again])
