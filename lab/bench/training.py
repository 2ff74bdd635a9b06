"""python -m lab.bench.training: our trainer beside those of other libraries, on the same tokens, in turns.

Each library runs its own loop in its own process and environment (`trainers/`), with equal threads, and begins from the
same directions. A turn of a few steps goes round, so that a busy machine is as unkind to one as to another.

With `--device cuda` tokens and weights are on the GPU, and a step's time is the wall time from a synchronized device
to the next. Where one Python has all libraries, name it in OVERCOMPLETE_PYTHON, DICTIONARY_LEARNING_PYTHON,
SAE_LENS_PYTHON and SPARSIFY_PYTHON, and in TRAINERS_PATH what PYTHONPATH has to be for them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .sizes import ON_CPU, ON_GPU, SIZES, Size

ROOT = Path(__file__).resolve().parents[2]
TRAINERS = Path(__file__).with_name("trainers")
STEPS, TURN = 40, 5
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
    Contestant("sparsify", "with_sparsify.py", "sparsify"),
)


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
        self.result = Result("")

    def begin(self) -> None:
        """Waits until it has imported its library and made its SAE."""
        self.result.version = self._answer()["version"]

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
    path = os.environ.get("TRAINERS_PATH") if contestant.environment else str(ROOT)
    if path:
        environment["PYTHONPATH"] = path
    count = str(threads)
    return environment | {
        "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
    }  # fmt: skip


def installed(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Those that can run; a line for each that cannot."""
    for contestant in contestants:
        if not contestant.python.is_file():
            print(f"  {contestant.name}: no {contestant.python}; make trainers sets it up")
    return [contestant for contestant in contestants if contestant.python.is_file()]


def race(size: Size, contestants: Sequence[Contestant], threads: int, device: str = "cpu") -> dict[str, Result]:
    """Trains with each in turns, and measures it after the last step."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        size.write(Path(folder), device)
        workers = [Worker(contestant, Path(folder), threads, stack) for contestant in contestants]
        workers = _that(Worker.begin, workers)
        for done in range(0, size.steps, TURN):
            count = min(TURN, size.steps - done)
            workers = _that(lambda worker, steps=count: worker.train(steps), workers)
        return {worker.name: worker.result for worker in _that(Worker.measure, workers)}


def _that(act: Callable[[Worker], None], workers: Sequence[Worker]) -> list[Worker]:
    """Those that did it."""
    return [worker for worker in workers if _did(act, worker)]


def _did(act: Callable[[Worker], None], worker: Worker) -> bool:
    """A line says why another library did not."""
    try:
        act(worker)
    except WorkerError as error:
        if worker.name == OURS:
            raise
        print(f"  {worker.name} is left out: {str(error).splitlines()[-1]}", flush=True)
        return False
    return True


def report(size: Size, results: Mapping[str, Result], device: str = "cpu") -> None:
    """A line a contestant; speeds by processor time, which neighbours on the machine change least, or a GPU's time."""
    steps = f"{size.steps} steps in turns of {TURN}"
    print(f"{size}, {steps}:\n  {'':26}    cpu/step   wall/step     tokens/s  peak memory  unexplained  time of ours")
    base = _time(results[OURS], device)
    for name, one in results.items():
        cpu, wall, time = median(one.processor), median(one.wall), _time(one, device)
        print(
            f"  {f'{name} {one.version}':26} {cpu * 1000:8.1f} ms {wall * 1000:8.1f} ms {size.batch / time:12,.0f} "
            f"{one.megabytes:9.0f} MB {one.unexplained:12.4f} {time / base:11.2f} ×",
            flush=True,
        )


def _time(result: Result, device: str) -> float:
    """Seconds of a step."""
    return median(result.processor if device == "cpu" else result.wall)


def race_all(
    sizes: Sequence[str] = ON_CPU, steps: int = STEPS, threads: int = 1, device: str = "cpu", only: Sequence[str] = ()
) -> None:
    """Prints a table for each size; `steps` of the wide and the large one, ten times as many of Shapes."""
    torch.set_num_threads(threads)
    where = "float32" if device == "cpu" else torch.cuda.get_device_name(device)
    print(f"Training, {threads} thread(s) each, {where}:")
    contestants = installed([one for one in CONTESTANTS if one.name in (OURS, *only) or not only])
    for name in sizes:
        size = SIZES[name](steps)
        report(size, race(size, contestants, threads, device), device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help=f"{' '.join(ON_CPU)}, or on a GPU {' '.join(ON_GPU)}")
    parser.add_argument("--steps", type=int, default=STEPS, help="of wide and large; Shapes takes ten times as many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", nargs="+", default=(), choices=[one.name for one in CONTESTANTS], help="beside ours")
    given = parser.parse_args()
    sizes = given.sizes or (ON_CPU if given.device == "cpu" else ON_GPU)
    race_all(sizes, given.steps, given.threads, given.device, given.only)


if __name__ == "__main__":
    main()
