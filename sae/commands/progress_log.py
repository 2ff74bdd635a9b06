"""What a training run tells while it goes: a bar on the terminal, a CSV file, tensorboard."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any, Protocol

from ..files.whole import told_when_unwritable
from ..training.run import RunProgress

CSV = "log.csv"
COLUMNS = ("step", "site", "tokens", "set_aside", "rate", "explained_variance", "auxiliary", "dead_share")
LOGS = ("", "csv", "tensorboard")


class ProgressLog(Protocol):
    def add(self, progress: RunProgress) -> None: ...

    def close(self) -> None: ...


def open_log(kind: str, folder: Path, step: int) -> ProgressLog:
    """The log of a run that begins, or goes on, after `step`."""
    if kind not in LOGS:
        raise ValueError(f"log: {kind!r} is not known; use csv or tensorboard.")
    if kind == "csv":
        return CsvLog(folder / CSV, step)
    return TensorboardLog(folder, step) if kind == "tensorboard" else NoLog()


class NoLog:
    def add(self, progress: RunProgress) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


class CsvLog:
    """A line a report and site; a run that goes on drops the lines of steps that it makes again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        with told_when_unwritable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = _rows_until(path, step) if path.is_file() else []
            self.file = path.open("w", encoding="utf-8", newline="")
            self.writer = csv.writer(self.file)
            self.writer.writerows([COLUMNS, *kept])
            self.file.flush()

    def add(self, progress: RunProgress) -> None:
        for site, one in progress.sites.items():
            numbers = (one.rate, one.explained_variance, one.auxiliary, one.dead_share)
            row = [progress.step, site, progress.tokens, progress.set_aside, *(f"{number:.6g}" for number in numbers)]
            self.writer.writerow(row)
        with told_when_unwritable(self.path):
            self.file.flush()

    def close(self) -> None:
        with told_when_unwritable(self.path):
            self.file.close()


def _rows_until(path: Path, step: int) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [row for row in rows if len(row) == len(COLUMNS) and row[0].isdecimal() and int(row[0]) <= step]


class TensorboardLog:
    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                f'log: tensorboard is not installed: run "{sys.executable}" -m pip install tensorboard, or use csv.'
            ) from error
        self.writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def add(self, progress: RunProgress) -> None:
        for site, one in progress.sites.items():
            for name in COLUMNS[4:]:
                self.writer.add_scalar(f"{site}/{name}", getattr(one, name), progress.step)

    def close(self) -> None:
        self.writer.close()


class ProgressBar:
    """tqdm's, which comes with ComfyUI; without it the bar stays away."""

    def __init__(self, steps: int, start: int, shown: bool = True) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            self.bar: Any = None
        else:
            self.bar = tqdm(total=steps, initial=start, unit="step", file=sys.stderr, disable=not shown)

    def show(self, step: int, text: str) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(step - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
