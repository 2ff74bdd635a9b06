"""Runs broken and crafted files in a process of its own and prints one JSON line for each: how it ended, what it took.

python fuzz_worker.py FOLDER FIRST STOP STEP MUTANTS SEED
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import crafted
from mutations import mutated, originals
from sae.formats import load
from sae.formats.provenance import provenance, trained_k

LIMIT_BYTES = 6 * 2**30  # of address space beyond what torch itself takes
LONGEST = 500  # characters of a sentence


def use_checkpoint(path: Path, architecture: str) -> None:
    """Everything that a graph does with an SAE. AssertionError where it gives anything but finite numbers."""
    sae = load(path, architecture=architecture, within=[path if path.is_dir() else path.parent])
    str(sae), sae.owner, provenance(sae), trained_k(sae)
    x = torch.ones(2, sae.d_in)
    f = sae.encode(x, 0.5)
    back = sae.decode(f, like=x)
    assert f.shape == (2, sae.d_sae) and back.shape == x.shape, "wrong shapes"
    known = sae.statistics
    numbers = {
        "codes": f,
        "reconstruction": back,
        "directions": sae.direction(range(sae.d_sae)),
        "scale": sae.token_scale(x),
    }
    numbers |= {
        name: getattr(known, name) for name in ("mean", "max", "density") if getattr(known, name, None) is not None
    }
    wrong = [name for name, values in numbers.items() if not values.isfinite().all()]
    assert not wrong, f"not finite: {wrong}"


def ending_of(use: Callable[[], object]) -> str:
    """ "loaded", "refused", or what went wrong."""
    try:
        use()
    except ValueError as error:
        text = str(error)
        if len(text) > LONGEST:
            return f"{len(text)} characters: {text[:300]}"
        return "refused" if text.isprintable() and text.endswith((".", ")")) else f"no plain sentence: {text!r}"
    except AssertionError as error:
        return f"loaded, but {error}"
    except BaseException as error:  # noqa: BLE001  whatever it is, it is the finding
        return f"{type(error).__name__}: {str(error)[:300]}"
    return "loaded"


def main() -> None:
    folder, first, stop, step, mutants, seed = Path(sys.argv[1]), *map(int, sys.argv[2:7])
    torch.set_num_threads(1)
    warm_up(folder)
    kinds, made = originals(folder / "originals"), list(crafted.cases().items())
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 if sys.platform == "linux" else 0
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for number in range(first, min(stop, mutants + len(made)), step):
        place = folder / f"case{number}"
        if number < mutants:
            kind = kinds[number % len(kinds)]
            path = mutated(kind, place, random.Random(seed * 1_000_003 + number))
            name, use = kind.name, lambda path=path, kind=kind: use_checkpoint(path, kind.architecture)
        else:
            place.mkdir()
            name, make = made[number - mutants]
            written = make(place)
            use = written if callable(written) else lambda path=written: use_checkpoint(path, "auto")
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        told = {"case": number, "kind": name, "size": size}
        tell({**told, "begun": True})
        start, before = time.process_time(), forget_peak()  # others may be busy on the machine
        ending = ending_of(use)
        tell({**told, "ending": ending, "seconds": time.process_time() - start, "extra": max(0, peak() - before)})
        shutil.rmtree(place)


def tell(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def warm_up(folder: Path) -> None:
    torch.save({"x": torch.zeros(2)}, folder / "warm.pt")
    torch.load(folder / "warm.pt", weights_only=True)


def forget_peak() -> int:
    """Resident memory now, from which the peak is counted on where the system can start it anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS:")
    except OSError:
        return peak()


def peak() -> int:
    """Largest resident memory, in bytes."""
    try:
        return _status("VmHWM:")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


if __name__ == "__main__":
    main()
