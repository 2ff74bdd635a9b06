"""Thousands of broken checkpoints: each ends in one sentence or a correct load, quickly, without running anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutations import CANARY
from project_files import ROOT

CASES = 2400
WORKERS = 2
SEED = 20261124
SECONDS = 5.0  # of one case, on a busy machine
# Beside twice the file: what the interpreter, the allocator and a first use of some part of torch take.
ALLOWANCE_BYTES = 24 * 2**20

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the worker measures its memory with resource")


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("fuzz")
    step = CASES // WORKERS
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    environment["OMP_NUM_THREADS"] = "1"
    workers = []
    for number in range(WORKERS):
        home = folder / str(number)
        home.mkdir()
        span = [str(number * step), str((number + 1) * step), str(SEED)]
        command = [sys.executable, str(ROOT / "tests" / "support" / "fuzz_worker.py"), str(home), *span]
        with (home / "out").open("w") as out, (home / "err").open("w") as err:
            workers.append((home, subprocess.Popen(command, stdout=out, stderr=err, env=environment)))
    found = []
    for home, worker in workers:
        code = worker.wait(timeout=600)
        lines = [json.loads(line) for line in (home / "out").read_text().splitlines()]
        last = lines[-1] if lines else None
        assert code == 0, f"the worker ended with {code} at {last}: {(home / 'err').read_text()[-2000:]}"
        found += [line for line in lines if "ending" in line]
        assert not list(home.rglob(CANARY)), "a checkpoint ran code"
    return found


def test_every_case_is_a_sentence_or_a_correct_load(endings: list[dict[str, object]]) -> None:
    assert len(endings) == CASES
    wrong = [line for line in endings if line["ending"] not in ("loaded", "refused")]
    assert wrong == [], f"seed {SEED}: {json.dumps(wrong[:5])}"
    refused = sum(line["ending"] == "refused" for line in endings)
    assert 0.5 * CASES < refused < 0.99 * CASES, "mutations that break nothing, or everything, test little"


def test_none_hangs(endings: list[dict[str, object]]) -> None:
    slow = [line for line in endings if float(str(line["seconds"])) > SECONDS]
    assert slow == [], f"seed {SEED}: {json.dumps(slow[:5])}"


def test_none_takes_more_memory_than_twice_its_file(endings: list[dict[str, object]]) -> None:
    greedy = [line for line in endings if int(str(line["extra"])) > 2 * int(str(line["size"])) + ALLOWANCE_BYTES]
    assert greedy == [], f"seed {SEED}: {json.dumps(greedy[:5])}"


def test_the_canary_would_be_seen(tmp_path: Path) -> None:
    import pickle
    import random

    from mutations import _code, originals

    kind = next(kind for kind in originals(tmp_path / "originals") if kind.name == "dictionary")
    (tmp_path / "case").mkdir()
    path = tmp_path / "case" / kind.file
    chance = random.Random(3)
    seen = False
    for _ in range(60):
        path.write_bytes((kind.folder / kind.file).read_bytes())
        _code(path, chance)
        if path.read_bytes()[:2] != b"PK":  # a plain pickle: run it as a careless loader would
            pickle.loads(path.read_bytes())  # noqa: S301
            seen |= (tmp_path / CANARY).exists()
    assert seen
