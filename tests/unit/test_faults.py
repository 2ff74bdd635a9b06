"""Faults of the disk: what was there stays, nothing half written stays, and a sentence says so."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from project_files import ROOT
from sae.dictionary.owner import Owner
from sae.dictionary.statistics import FeatureStatistics, read_statistics, write_statistics
from sae.files import whole
from sae.files.small_json import read_json, write_json
from sae.files.whole import UnwritableError
from sae.known.gallery import add_pictures
from sae.known.labels import Label, LabelStore, write_labels
from sae.known.ranges import Setting, read_calibrations, update_calibrations
from sae.steering.edits import Calibration
from sae.training.trainer import write_checkpoint

MARK = "ab" * 32
OWNER = Owner("ab" * 16, "mine")
RANGE = Calibration("add", 0.1, 0.2, 0.3)
MANY = {k: Label(f"name {k}", "n" * 100) for k in range(2000)}  # a file of some 300 KB
posix = pytest.mark.skipif(os.name != "posix", reason="limits and rights of POSIX")


def labels(folder: Path, large: bool) -> None:
    LabelStore(folder).update(MARK, MANY if large else {3: Label("snow")})


def ranges(folder: Path, large: bool) -> None:
    new = dict.fromkeys(range(2000 if large else 1), RANGE)
    update_calibrations(folder / "x.calibration.json", MARK, new, Setting("s" * 100))


def recipe(folder: Path, large: bool) -> None:
    write_json(folder / "my-recipe.json", {"note": "x" * (300_000 if large else 1)})


def statistics(folder: Path, large: bool) -> None:
    numbers = torch.ones(100_000 if large else 4)
    write_statistics(FeatureStatistics(numbers, numbers.clone(), None, 1), folder / "x.stats.safetensors")


def gallery(folder: Path, large: bool) -> None:
    strength, spot = torch.ones(30 if large else 1, 12), torch.full((30 if large else 1, 12, 2), 0.5)
    pictures = [bytes([number]) * 19_000 if large else b"small" for number in range(len(strength))]
    strength *= torch.arange(1, len(strength) + 1).unsqueeze(1)
    add_pictures(folder / "x.gallery.safetensors", OWNER, 12, pictures, ["red"] * len(pictures), strength, spot)


def checkpoint(folder: Path, large: bool) -> None:
    write_checkpoint(folder / "training.pt", {"weights": torch.ones(100_000 if large else 4)})


WRITERS = [labels, ranges, recipe, statistics, gallery, checkpoint]
every_writer = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
Write = Callable[[Path, bool], None]


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the locks, which are empty and stay."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


@contextmanager
def small_disk(most: int) -> Iterator[None]:
    """No file may grow beyond `most` bytes: the system itself refuses the write, as a full disk does."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def no_rights(folder: Path) -> Iterator[None]:
    """A folder that we may read and not write; the administrator, who may do anything, becomes nobody meanwhile."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def readable(tmp_path: Path) -> Path:
    """A folder that nobody can reach: pytest's own are closed to others."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    place = tmp_path / "place"
    place.mkdir()
    return place


@posix
@every_writer
def test_a_full_disk_loses_nothing(write: Write, tmp_path: Path) -> None:
    write(tmp_path, False)
    before = contents(tmp_path)
    with small_disk(20_000), pytest.raises(UnwritableError, match=r"so nothing was changed; make room"):
        write(tmp_path, True)
    assert contents(tmp_path) == before
    write(tmp_path, True)
    assert contents(tmp_path) != before


@posix
@every_writer
def test_a_read_only_folder_loses_nothing(write: Write, readable: Path) -> None:
    write(readable, False)
    for lock in readable.glob("*.lock"):
        lock.chmod(0o666)
    before = contents(readable)
    with no_rights(readable), pytest.raises(UnwritableError, match=r"(cannot be written|nothing can be written)"):
        write(readable, True)
    assert contents(readable) == before


@every_writer
def test_something_in_the_place_of_the_folder_is_told(write: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UnwritableError, match=r"^[\w.-]+: "):
        write(tmp_path / "file", True)
    assert contents(tmp_path) == {"file": b"mine"}


@every_writer
def test_something_in_the_place_of_the_file_is_told(write: Write, tmp_path: Path) -> None:
    write(tmp_path, False)
    [name] = contents(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(UnwritableError, match="it cannot be written"):
        write(tmp_path, True)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == [name]


@every_writer
def test_what_is_new_is_on_the_disk_before_it_takes_the_place(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between two writes finds the old file or the new one: the order of the system's calls decides it."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        what = Path(f"/proc/self/fd/{handle}").readlink() if sys.platform == "linux" else None
        done.append("sync" if what is None else f"sync {'folder' if what.is_dir() else what.stat().st_size}")
        fsync(handle)

    def replaced(self: Path, target: Path) -> Path:
        done.append(f"replace {self.stat().st_size}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write(tmp_path, True)
    [size] = [len(content) for content in contents(tmp_path).values()]
    if sys.platform == "linux":
        assert done == [f"sync {size}", f"replace {size}", "sync folder"]


@every_writer
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failure_at_the_last_moment_leaves_the_old_file(
    write: Write, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    write(tmp_path, False)
    before = contents(tmp_path)
    monkeypatch.setattr(os if moment == "fsync" else Path, moment, fail)
    with pytest.raises(UnwritableError, match=r"cannot be written \(Input/output error\)"):
        write(tmp_path, True)
    assert contents(tmp_path) == before


WRITES = """
import sys
from pathlib import Path
from sae.known.labels import Label, write_labels
version = 0
while True:
    version += 1
    write_labels(Path(sys.argv[1]), {k: Label(f"version {version}") for k in range(3000)}, "ab" * 32)
"""


@posix
def test_a_program_killed_while_it_writes_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.labels.json"
    write_labels(path, {0: Label("version 0")}, MARK)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    chance, seen = random.Random(5), set()
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITES, str(path)], env=environment)
        try:
            old, until = path.stat().st_mtime_ns, time.monotonic() + 120
            while path.stat().st_mtime_ns == old and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(chance.random() * 0.1)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        names = {label["name"] for label in read_json(path, "label file")["labels"].values()}
        assert len(names) == 1, "half of one version and half of another"
        seen |= names
    assert seen != {"version 0"}


def test_statistics_and_ranges_that_are_there_are_read_while_others_write(tmp_path: Path) -> None:
    """A reader never waits and never meets a half."""
    statistics(tmp_path, False)
    ranges(tmp_path, False)
    with whole.replacing(tmp_path / "x.stats.safetensors") as part:
        part.write_bytes(b"half")
        assert read_statistics(tmp_path / "x.stats.safetensors").count == 4
        statistics(part.parent, False)
    with whole.replacing(tmp_path / "x.calibration.json") as part:
        part.write_bytes(b"{")
        assert [measured.feature for measured in read_calibrations(tmp_path / "x.calibration.json", MARK)] == [0]


def test_an_error_of_ours_in_mid_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(KeyError), whole.replacing(tmp_path / "x.json") as part:
        part.write_text("half")
        raise KeyError
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]  # noqa: PTH208
