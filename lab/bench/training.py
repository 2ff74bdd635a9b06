"""python -m lab.bench.training: our trainer beside those of other libraries, on the same tokens, in turns.

Each library runs its own loop in its own process and environment (`trainers/`), with equal threads, and begins from the
same directions. A turn of a few steps goes round, so that a busy machine is as unkind to one as to another.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize

from sae.commands.train_settings import Settings
from sae.commands.train_sources import build_source

ROOT = Path(__file__).resolve().parents[2]
TRAINERS = Path(__file__).with_name("trainers")
STEPS, TURN = 40, 5
HELD_OUT = 4_096  # tokens
OURS = "ours"


@dataclass(frozen=True)
class Contestant:
    """A library's trainer. `environment` names .venv-NAME."""

    name: str
    script: str
    environment: str = ""

    @property
    def python(self) -> Path:
        """Of its environment, or what NAME_PYTHON says."""
        if not self.environment:
            return Path(sys.executable)
        given = os.environ.get(f"{self.environment.upper().replace('-', '_')}_PYTHON")
        place = "Scripts/python.exe" if os.name == "nt" else "bin/python"
        return Path(given).expanduser() if given else ROOT / f".venv-{self.environment}" / place


CONTESTANTS = (
    Contestant(OURS, "with_ours.py"),
    Contestant("overcomplete", "with_overcomplete.py", "overcomplete"),
    Contestant("dictionary_learning", "with_dictionary_learning.py", "dictionary-learning"),
    Contestant("sae-lens", "with_sae_lens.py", "sae-lens"),
)


@dataclass(frozen=True)
class Size:
    """What is trained."""

    name: str
    tokens: Tensor  # (n, d_in), in the order in which all see them
    d_sae: int
    k: int
    batch: int
    steps: int
    rate: float

    def write(self, folder: Path) -> None:
        """Tokens of mean 0 and variance 1, so that no library has to bring them there, and where all begin."""
        x = self.tokens - self.tokens.mean(dim=0)
        x /= x.square().mean().sqrt()
        random = torch.Generator().manual_seed(0)
        decoder = normalize(torch.randn(self.d_sae, x.shape[1], generator=random), dim=1)
        tensors = {"tokens": x[HELD_OUT:].clone(), "held_out": x[:HELD_OUT].clone(), "decoder": decoder}
        save_file(tensors, folder / "tokens.safetensors")
        # one step more than is made: no loop comes to its end
        facts = {"k": self.k, "batch": self.batch, "steps": self.steps + 1, "rate": self.rate}
        (folder / "case.json").write_text(json.dumps(facts), encoding="utf-8")

    def __str__(self) -> str:
        return f"{self.name}: {self.tokens.shape[1]} → {self.d_sae:,}, k {self.k}, batches of {self.batch:,}"


@dataclass
class Result:
    """Of one contestant: seconds of each step, and what was measured after the last."""

    version: str
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    unexplained: float = float("nan")
    megabytes: float = float("nan")


class WorkerError(RuntimeError):
    """A contestant's process did not do as it was told."""


class Worker:
    """The process of a contestant, between two orders asleep."""

    def __init__(self, contestant: Contestant, folder: Path, threads: int, stack: ExitStack) -> None:
        self.name = contestant.name
        self.errors = folder / f"{contestant.script}.log"
        log = stack.enter_context(self.errors.open("w", encoding="utf-8"))
        command = [str(contestant.python), str(TRAINERS / contestant.script), str(folder)]
        self.process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(contestant, threads),
                text=True,
            )
        )
        stack.callback(self.process.kill)
        self.result = Result(self._answer()["version"])

    def train(self, steps: int) -> None:
        told = self._ask(str(steps))
        self.result.wall += told["wall"]
        self.result.processor += told["processor"]

    def measure(self) -> None:
        told = self._ask("measure")
        self.result.unexplained, self.result.megabytes = told["unexplained"], told["megabytes"]

    def _ask(self, order: str) -> dict[str, Any]:
        if self.process.stdin is None:
            raise WorkerError(f"{self.name} has no input")
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            told = self.errors.read_text(encoding="utf-8", errors="replace").strip()
            raise WorkerError(f"{self.name} ended: {told[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _environment(contestant: Contestant, threads: int) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if not contestant.environment:
        environment["PYTHONPATH"] = str(ROOT)
    count = str(threads)
    return environment | {
        "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
    }  # fmt: skip


def wide(steps: int) -> Size:
    """Tokens that are sums of 24 of 4,096 directions, with some noise: 512 → 8,192."""
    random = torch.Generator().manual_seed(1)
    directions = normalize(torch.randn(4_096, 512, generator=random), dim=1)
    parts = []
    for _ in range(HELD_OUT // 1_024 + steps):
        chosen = torch.randint(0, 4_096, (1_024, 24), generator=random)
        strengths = 0.5 + torch.rand(1_024, 24, generator=random)
        sums = functional.embedding_bag(chosen, directions, per_sample_weights=strengths, mode="sum")
        parts.append(sums + 0.01 * torch.randn(1_024, 512, generator=random))
    return Size("wide", torch.cat(parts), 8_192, 32, 1_024, steps, 1e-3)


def shapes(steps: int) -> Size:
    """The text stream of block 0 of the demo FLUX, as docs/training-shapes.toml trains it: 128 → 256."""
    source, parts, number = build_source(Settings(source="shapes")), [], 0
    (name,) = source.sites
    while sum(map(len, parts)) < HELD_OUT + 16_384:
        parts.append(source.training(number)[name].tokens.float())
        number += 1
    every = torch.cat(parts)
    mixed = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(2))]
    return Size("Shapes", mixed[: HELD_OUT + 16_384], 256, 16, 1_024, 10 * steps, 2e-3)


SIZES = {"wide": wide, "shapes": shapes}


def installed(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Those that can run; a line for each that cannot."""
    for contestant in contestants:
        if not contestant.python.is_file():
            print(f"  {contestant.name}: no {contestant.python}; make trainers sets it up")
    return [contestant for contestant in contestants if contestant.python.is_file()]


def race(size: Size, contestants: Sequence[Contestant], threads: int) -> dict[str, Result]:
    """Trains with each in turns, and measures it after the last step."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        size.write(Path(folder))
        started = (_started(contestant, Path(folder), threads, stack) for contestant in contestants)
        workers = [worker for worker in started if worker is not None]
        for done in range(0, size.steps, TURN):
            for worker in workers:
                worker.train(min(TURN, size.steps - done))
        for worker in workers:
            worker.measure()
        return {worker.name: worker.result for worker in workers}


def _started(contestant: Contestant, folder: Path, threads: int, stack: ExitStack) -> Worker | None:
    """None, and a line that says why, for another library that does not even import."""
    try:
        return Worker(contestant, folder, threads, stack)
    except WorkerError as error:
        if contestant.name == OURS:
            raise
        print(f"  {contestant.name}: its packages do not go together ({str(error).splitlines()[-1]})")
        return None


def report(size: Size, results: Mapping[str, Result]) -> None:
    """A line a contestant; speeds by processor time, which neighbours on the machine change least."""
    steps = f"{size.steps} steps in turns of {TURN}"
    print(f"{size}, {steps}:\n  {'':24}    cpu/step   wall/step     tokens/s  peak memory  unexplained  time of ours")
    base = median(results[OURS].processor)
    for name, one in results.items():
        cpu, wall = median(one.processor), median(one.wall)
        print(
            f"  {f'{name} {one.version}':24} {cpu * 1000:8.1f} ms {wall * 1000:8.1f} ms {size.batch / cpu:12,.0f} "
            f"{one.megabytes:9.0f} MB {one.unexplained:12.4f} {cpu / base:11.2f} ×"
        )


def race_all(sizes: Sequence[str] = tuple(SIZES), steps: int = STEPS, threads: int = 1) -> None:
    """Prints a table for each size; `steps` of the wide one, ten times as many of Shapes."""
    torch.set_num_threads(threads)
    print(f"Training, {threads} thread(s) each, float32:")
    contestants = installed(CONTESTANTS)
    for name in sizes:
        size = SIZES[name](steps)
        report(size, race(size, contestants, threads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=tuple(SIZES))
    parser.add_argument("--steps", type=int, default=STEPS, help="of the wide size; Shapes takes ten times as many")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    race_all(given.sizes, given.steps, given.threads)


if __name__ == "__main__":
    main()
