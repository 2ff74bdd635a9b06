"""Hugging Face accelerate as the processes of a training run: `accelerate launch -m sae train …`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, distributed

from .encoders import needed_package

LAUNCHED = "WORLD_SIZE"  # what accelerate launch and torchrun tell each of their processes


class Processes:
    """The processes of a launch, as `sae/training/distributed.py` describes them."""

    def __init__(self, cpu: bool) -> None:
        accelerate = needed_package("accelerate", "launch")
        self.accelerator: Any = accelerate.Accelerator(cpu=cpu)

    @property
    def count(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def device(self) -> str:
        """Of this process."""
        return str(self.accelerator.device)

    def mean(self, values: Tensor) -> Tensor:
        mean: Tensor = self.accelerator.reduce(values, reduction="mean")
        return mean

    def any(self, flags: Tensor) -> Tensor:
        counted: Tensor = self.accelerator.reduce(flags.float(), reduction="sum")
        return counted > 0

    def gather(self, rows: Tensor) -> Tensor:
        gathered: Tensor = self.accelerator.gather(rows.contiguous())
        return gathered


@contextmanager
def launched_processes(device: str) -> Iterator[Processes | None]:
    """The processes that this one was launched among; None for a program that runs by itself."""
    if int(os.environ.get(LAUNCHED, "1")) <= 1:
        yield None
        return
    try:
        yield Processes(device == "cpu")
    finally:  # threads of the group that outlive the program would end it with an error
        if distributed.is_initialized():
            distributed.destroy_process_group()
