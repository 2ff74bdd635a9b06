"""Broken and crafted files: each ends in one plain sentence or a correct load, soon, without running anything.

A share of what `make fuzz` runs.
"""

from __future__ import annotations

import json
import pickle
import random
import sys
from pathlib import Path

import pytest

import fuzz
from fuzz import Found
from mutations import CANARY, _code, originals

MUTANTS = 240

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the worker measures its memory with resource")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return fuzz.run(tmp_path_factory.mktemp("fuzz"), MUTANTS)


def test_every_case_is_a_plain_sentence_or_finite_numbers_soon_and_in_little_memory(found: Found) -> None:
    wrong = {what: lines[:5] for what, lines in found.wrong().items() if lines}
    assert wrong == {}, f"seed {fuzz.SEED}: {json.dumps(wrong)}"
    assert found.executed == 0, "a file ran code"


def test_mutants_are_neither_all_refused_nor_all_loaded(found: Found) -> None:
    """Mutations that break nothing, or everything, test little."""
    mutants = [line for line in found.endings if line["case"] < MUTANTS]
    assert len(mutants) == MUTANTS
    assert 0.5 * MUTANTS < sum(line["ending"] == "refused" for line in mutants) < 0.99 * MUTANTS


def test_no_mutant_takes_more_memory_than_twice_its_file(found: Found) -> None:
    """Beside that: what the allocator and a first use of some part of torch take."""
    greedy = [
        line for line in found.endings if line["case"] < MUTANTS and line["extra"] > 2 * line["size"] + 24 * 2**20
    ]
    assert greedy == [], f"seed {fuzz.SEED}: {json.dumps(greedy[:5])}"


def test_the_canary_would_be_seen(tmp_path: Path) -> None:
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


HOSTILE_WORKER = """
import json, os, sys, time
first = int(sys.argv[2])
for case in range(first, 6, int(sys.argv[4])):
    print(json.dumps({"case": case, "kind": "x", "size": 0, "begun": True}), flush=True)
    if case == 2:
        os.abort()
    if case == 3:
        time.sleep(60)
    print(json.dumps({"case": case, "kind": "x", "size": 0, "ending": "refused", "seconds": 0, "extra": 0}), flush=True)
"""


def test_crashes_and_hangs_are_counted_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests" / "support").mkdir(parents=True)
    (tmp_path / "tests" / "support" / "fuzz_worker.py").write_text(HOSTILE_WORKER)
    monkeypatch.setattr(fuzz, "ROOT", tmp_path)
    monkeypatch.setattr(fuzz, "PATIENCE", 2.0)
    found = fuzz.run(tmp_path / "run", 6)
    assert [line["ending"] for line in found.endings] == ["refused", "refused", "crashed", "hung", "refused", "refused"]
    counts = {what: len(lines) for what, lines in found.wrong().items()}
    assert list(counts.values()) == [1, 1, 0, 0]
