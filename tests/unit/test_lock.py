"""Files that several threads and programs change at once: nothing is lost, nobody waits for ever."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from project_files import ROOT
from sae.files import whole
from sae.files.small_json import UnreadableError, update_json, write_json
from sae.files.whole import UnwritableError, locked
from sae.known.labels import Label, LabelStore
from sae.known.ranges import Setting, read_calibrations, update_calibrations
from sae.steering.edits import Calibration

PRINT = "ab" * 32
THREADS, PROCESSES, EACH = 16, 4, 6


def at_once(work) -> None:
    """Runs work(0), work(1), … in threads that start together; what one raises is raised here."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait()
        work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(THREADS)))


def python(code: str, *arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def test_no_rename_of_many_threads_is_lost(tmp_path: Path) -> None:
    at_once(lambda number: LabelStore(tmp_path).update(PRINT, {number: Label(f"name {number}")}))
    kept = LabelStore(tmp_path).labels(PRINT)
    assert kept == {number: Label(f"name {number}") for number in range(THREADS)}


def test_no_calibration_of_many_threads_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "x.calibration.json"
    ranges = {number: Calibration("add", 0.1, 0.2, 0.3 + number) for number in range(THREADS)}
    at_once(lambda number: update_calibrations(path, PRINT, {number: ranges[number]}, Setting()))
    assert {m.feature: m.calibration for m in read_calibrations(path, PRINT)} == ranges


def rename_some(folder: Path, number: int, start) -> None:
    start.wait()
    for k in range(number * EACH, number * EACH + EACH):
        LabelStore(folder).update(PRINT, {k: Label(f"name {k}")})


def test_no_rename_of_several_programs_is_lost(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")  # a fork need not import torch
    start = context.Barrier(PROCESSES)
    programs = [context.Process(target=rename_some, args=(tmp_path, n, start)) for n in range(PROCESSES)]
    for program in programs:
        program.start()
    for program in programs:
        program.join(60)
    assert [program.exitcode for program in programs] == [0] * PROCESSES
    kept = LabelStore(tmp_path).labels(PRINT)
    assert kept == {k: Label(f"name {k}") for k in range(PROCESSES * EACH)}


def test_a_name_that_comes_while_labels_are_found_is_not_overwritten(tmp_path: Path) -> None:
    found = {3: Label("snow", source="LabelFeatures"), 4: Label("ice", source="LabelFeatures")}
    LabelStore(tmp_path).update(PRINT, {3: Label("mine")})
    assert LabelStore(tmp_path).add(PRINT, found) == {4: found[4]}
    assert LabelStore(tmp_path).labels(PRINT) == {3: Label("mine"), 4: found[4]}


HOLDS = """
import sys
from pathlib import Path
from sae.files.whole import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_waiting_for_another_program_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    holder = python(HOLDS, path)
    try:
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(ValueError, match=r"^x\.json: it has been in use for 0\.3 seconds"), locked(path, 0.3):
            pass
        assert 0.3 <= time.monotonic() - began < 3
        holder.stdin.write("go\n")
        holder.stdin.flush()
        with locked(path, 20):
            assert holder.wait(20) == 0
    finally:
        holder.kill()


def test_a_program_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    holder = python(HOLDS, tmp_path / "x.json")
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    holder.wait(20)
    with locked(tmp_path / "x.json", 0.3):
        pass


def test_threads_wait_for_each_other_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch, caplog) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(whole, "_lock", refuse)
    at_once(lambda number: LabelStore(tmp_path).update(PRINT, {number: Label("x")}))
    assert len(LabelStore(tmp_path).labels(PRINT)) == THREADS
    assert "its file system has no locks (Operation not supported)" in caplog.text


def test_an_error_inside_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "x.json"):
        raise KeyError
    with locked(tmp_path / "x.json", 0.1):
        pass


def test_a_file_that_cannot_be_read_is_neither_set_aside_nor_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")

    def denied(file: Path):
        raise UnreadableError("x.json: this file cannot be read (Permission denied).")

    with pytest.raises(UnreadableError):
        update_json(path, denied, lambda known: {"lost": True})
    assert path.read_text() == "{}"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.json", "x.json.lock"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match=r"^x\.json: nothing can be written beside it"),
        locked(tmp_path / "file" / "x.json"),
    ):
        pass


def test_access_that_is_denied_for_a_moment_is_tried_again(tmp_path: Path, monkeypatch) -> None:
    """As on Windows, while another program reads the file."""
    denied, replace = [], Path.replace

    def sometimes(self: Path, target: Path) -> Path:
        if len(denied) < 3:
            denied.append(target)
            raise PermissionError(errno.EACCES, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", sometimes)
    with pytest.raises(UnwritableError, match=r"^x\.json: it cannot be written \(Access is denied\)"):
        write_json(tmp_path / "x.json", {"a": 1})
    denied.clear()
    monkeypatch.setattr(whole, "TRIES", 4)
    write_json(tmp_path / "x.json", {"a": 1})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
