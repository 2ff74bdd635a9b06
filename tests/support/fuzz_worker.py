"""Runs fuzz cases in a process of its own and prints one JSON line for each: how it ended and what it took.

python fuzz_worker.py FOLDER FIRST STOP SEED
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from pathlib import Path

import torch

from mutations import mutated, originals
from sae.formats import load

LIMIT_BYTES = 6 * 2**30  # of address space beyond what torch itself takes


def run_case(path: Path, architecture: str) -> str:
    """What became of one broken file: "loaded", or the error's text."""
    try:
        sae = load(path, architecture=architecture)
        x = torch.ones(2, sae.d_in)
        f = sae.encode(x, 0.5)
        back = sae.decode(f, like=x)
        sae.direction([0])
    except ValueError as error:
        text = str(error)
        named = text.count("\n") == 0 and len(text) < 2000
        return "refused" if named else f"not one sentence: {text[:300]}"
    return "loaded" if f.shape == (2, sae.d_sae) and back.shape == x.shape else "loaded with wrong shapes"


def main() -> None:
    folder, first, stop, seed = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    torch.set_num_threads(1)
    torch.load(_warm_up(folder), weights_only=True)
    kinds = originals(folder / "originals")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 if sys.platform == "linux" else 0
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for number in range(first, stop):
        chance = random.Random(seed * 1_000_003 + number)
        kind = kinds[number % len(kinds)]
        path = mutated(kind, folder / f"case{number}", chance)
        size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
        tell({"case": number, "kind": kind.name, "size": size, "begun": True})
        start, before = time.perf_counter(), _peak()
        try:
            ending = run_case(path, kind.architecture)
        except BaseException as error:  # noqa: BLE001  whatever it is, it is the finding
            ending = f"{type(error).__name__}: {error}"
        told = {"case": number, "kind": kind.name, "ending": ending, "seconds": time.perf_counter() - start}
        tell({**told, "extra": _peak() - before, "size": size})
        for file in sorted(path.parent.rglob("*"), reverse=True):
            file.unlink() if file.is_file() or file.is_symlink() else file.rmdir()


def tell(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _warm_up(folder: Path) -> Path:
    path = folder / "warm.pt"
    torch.save({"x": torch.zeros(2)}, path)
    return path


def _peak() -> int:
    """Largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
