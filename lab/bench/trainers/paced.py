"""What the scripts beside this one share. Each runs with the Python of its library, and needs torch and safetensors.

A script trains with the library's own loop, on batches that wait for their turn: `python with_X.py FOLDER`, where
FOLDER has case.json and tokens.safetensors. It prints a line of JSON when it is ready, and one for each line that it
reads: a number trains so many steps, `measure` tells quality and memory, and the end of its input ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

MEGABYTE = 2**20
KILOBYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss, in bytes


class Case:
    """What is trained: tokens (n, d_in) of mean 0 and variance 1, and where all libraries begin."""

    def __init__(self, folder: Path) -> None:
        tensors = load_file(folder / "tokens.safetensors")
        self.tokens, self.held_out = tensors["tokens"], tensors["held_out"]
        self.decoder = tensors["decoder"]  # (d_sae, d_in), of unit length; the encoder begins as its transpose
        facts: dict[str, Any] = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        self.k, self.batch, self.steps, self.rate = facts["k"], facts["batch"], facts["steps"], facts["rate"]
        self.d_sae, self.d_in = self.decoder.shape


class Paced:
    """Batches in order, each given when it is asked for from outside; between two askings a step was made."""

    def __init__(self, case: Case, library: str, reconstruct: Callable[[Tensor], Tensor]) -> None:
        self.case, self.reconstruct = case, reconstruct
        # what a library prints goes elsewhere than our answers
        self.answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self.rest = _resident()
        self._say(version=version(library) if library else "")

    def __iter__(self) -> Iterator[Tensor]:
        batches = self._batches()
        for order in sys.stdin:
            if order.strip() == "measure":
                self._say(**self._measured())
                continue
            wall, processor = [], []
            for _ in range(int(order)):
                begun = time.perf_counter(), time.process_time()
                yield next(batches)
                wall.append(time.perf_counter() - begun[0])
                processor.append(time.process_time() - begun[1])
            self._say(wall=wall, processor=processor)
        sys.exit(0)  # out of the library's loop

    def _batches(self) -> Iterator[Tensor]:
        while True:
            for batch in self.case.tokens.split(self.case.batch):
                yield batch.clone()

    @torch.no_grad()
    def _measured(self) -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTES
        x = self.case.held_out
        unexplained = (x - self.reconstruct(x)).square().sum() / (x - x.mean(dim=0)).square().sum()
        return {"unexplained": float(unexplained), "megabytes": (peak - self.rest) / MEGABYTE}

    def _say(self, **facts: Any) -> None:
        print(json.dumps(facts), file=self.answers, flush=True)


def _resident() -> int:
    """Bytes in memory now; where the system allows it, the peak is counted from here on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTES


def case_given() -> Case:
    return Case(Path(sys.argv[1]))
