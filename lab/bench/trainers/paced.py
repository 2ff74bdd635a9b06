"""What the scripts beside this one share. Each runs with the Python of its library, and needs torch and safetensors.

A script trains with the library's own loop, on batches that wait for their turn: `python with_X.py FOLDER`, where
FOLDER has case.json and, unless the tokens are made on the device, tokens.safetensors. It prints a line of JSON when it
is ready, and one for each line that it reads: a number trains so many steps, `measure` tells quality and memory, and
the end of its input ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

MEGABYTE = 2**20
TOKENS = "tokens.safetensors"
PART = 4_096  # tokens that are made at once
KILOBYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss, in bytes


class Case:
    """What is trained: tokens (n, d_in) of mean 0 and variance 1, and where all libraries begin; all on the device."""

    def __init__(self, folder: Path, answers: TextIO) -> None:
        self.answers = answers
        facts: dict[str, Any] = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        self.k, self.batch, self.steps, self.rate = facts["k"], facts["batch"], facts["steps"], facts["rate"]
        self.device = torch.device(facts["device"])
        if self.on_gpu:
            # float32 products on the matrix units, for all alike
            torch.set_float32_matmul_precision("high")
        tensors = made(**facts["made"], device=self.device) if facts["made"] else load_file(folder / TOKENS)
        tensors = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        self.tokens, self.held_out = tensors["tokens"], tensors["held_out"]
        self.decoder = tensors["decoder"]  # (d_sae, d_in), of unit length; the encoder begins as its transpose
        self.d_sae, self.d_in = self.decoder.shape
        del tensors
        if self.on_gpu:
            self.bytes = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


def made(
    d_in: int, d_sae: int, directions: int, active: int, tokens: int, held_out: int, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """A case out of a seed: tokens that are sums of `active` of so many directions, with some noise."""
    random = torch.Generator(device).manual_seed(seed)
    table = functional.normalize(torch.randn(directions, d_in, generator=random, device=device), dim=1)
    x = torch.empty(held_out + tokens, d_in, device=device)
    for part in x.split(PART):
        chosen = torch.randint(0, directions, (len(part), active), generator=random, device=device)
        strengths = 0.5 + torch.rand(len(part), active, generator=random, device=device)
        part.copy_(functional.embedding_bag(chosen, table, per_sample_weights=strengths, mode="sum"))
        part.add_(torch.randn(part.shape, generator=random, device=device), alpha=0.01)
    x -= x.mean(dim=0)
    x /= torch.linalg.vector_norm(x) / x.numel() ** 0.5
    decoder = functional.normalize(torch.randn(d_sae, d_in, generator=random, device=device), dim=1)
    return {"tokens": x[held_out:], "held_out": x[:held_out], "decoder": decoder}


class Paced:
    """Batches in order, each given when it is asked for from outside; between two askings a step was made."""

    def __init__(self, case: Case, library: str, reconstruct: Callable[[Tensor], Tensor]) -> None:
        self.case, self.reconstruct = case, reconstruct
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
                self._wait()
                begun = time.perf_counter(), time.process_time()
                yield next(batches)
                self._wait()
                wall.append(time.perf_counter() - begun[0])
                processor.append(time.process_time() - begun[1])
            if self.case.on_gpu:
                torch.cuda.empty_cache()  # what is not in use is the next one's
            self._say(wall=wall, processor=processor)
        sys.exit(0)  # out of the library's loop

    def _batches(self) -> Iterator[Tensor]:
        while True:
            for batch in self.case.tokens.split(self.case.batch):
                yield batch.clone()

    def _wait(self) -> None:
        """Until the device is done with what it was told."""
        if self.case.on_gpu:
            torch.cuda.synchronize()

    @torch.no_grad()
    def _measured(self) -> dict[str, float]:
        peak = self._peak()
        x = self.case.held_out
        unexplained = (x - self.reconstruct(x)).square().sum() / (x - x.mean(dim=0)).square().sum()
        return {"unexplained": float(unexplained), "megabytes": peak / MEGABYTE}

    def _peak(self) -> int:
        """Bytes above those of the case: of the device's memory, where it has its own."""
        if self.case.on_gpu:
            return torch.cuda.max_memory_allocated() - self.case.bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTES - self.rest

    def _say(self, **facts: Any) -> None:
        print(json.dumps(facts), file=self.case.answers, flush=True)


def _resident() -> int:
    """Bytes in memory now; where the system allows it, the peak is counted from here on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTES


def leave_out(*names: str) -> None:
    """Stands in for packages that a library imports, and that its trainer does not use."""
    for name in names:
        package = MagicMock(__spec__=ModuleSpec(name, None), __path__=[])
        sys.modules[name] = package


def case_given() -> Case:
    # what a library prints goes elsewhere than our answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return Case(Path(sys.argv[1]), answers)
