"""Thousands of broken and crafted files through the library, in programs of their own; prints how they ended.

python tests/support/fuzz.py [MUTANTS]
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from project_files import ROOT

MUTANTS = 2000
WORKERS = 2
SEED = 20261124
SECONDS = 10.0  # of the processor for one case
PATIENCE = 120.0  # seconds by the clock; a worker that is longer over one is ended
STARTING = 600.0  # of a worker's first word, on a busy machine
MOST_BYTES = 2**30  # over the base
ALL = 10**9

Line = dict[str, Any]


@dataclass
class Found:
    """How the cases ended, each as a line with case, kind, size, ending, seconds, extra."""

    endings: list[Line] = field(default_factory=list)
    executed: int = 0  # canaries that code in a file has left
    seconds: float = 0.0

    def wrong(self) -> dict[str, list[Line]]:
        """What must be empty, each under what it is called."""
        return {
            "crashes": [line for line in self.endings if line["ending"] == "crashed"],
            f"hangs above {SECONDS:g} s": [
                line for line in self.endings if line["ending"] == "hung" or line["seconds"] > SECONDS
            ],
            "above 1 GB over the base": [line for line in self.endings if line["extra"] > MOST_BYTES],
            "without a plain sentence or finite numbers": [
                line for line in self.endings if line["ending"] not in ("loaded", "refused", "crashed", "hung")
            ],
        }


def run(folder: Path, mutants: int = MUTANTS, seed: int = SEED, first: int = 0) -> Found:
    """All crafted files and `mutants` broken ones, from the case `first` on."""
    found, began = Found(), time.monotonic()
    parts: list[list[Line]] = [[] for _ in range(WORKERS)]
    threads = []
    for number, lines in enumerate(parts):
        home = folder / str(number)
        home.mkdir(parents=True)
        threads.append(threading.Thread(target=_share, args=(home, first + number, mutants, seed, lines)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.endings = sorted((line for lines in parts for line in lines), key=lambda line: line["case"])
    found.executed = len(list(folder.rglob("canary")))
    found.seconds = time.monotonic() - began
    return found


def _share(home: Path, first: int, mutants: int, seed: int, lines: list[Line]) -> None:
    """Runs one worker's cases; after a crash or a hang the next worker goes on with the next case."""
    while True:
        code, begun = _worker(home, first, mutants, seed, lines)
        if code == 0:
            return
        if begun is None:
            lines.append(
                {"case": first, "kind": "the worker", "ending": f"did not start ({code})", "seconds": 0.0, "extra": 0}
            )
            return
        first = begun["case"] + WORKERS


def _worker(home: Path, first: int, mutants: int, seed: int, lines: list[Line]) -> tuple[int, Line | None]:
    """The worker's code at the end and the case that it began and did not end, which is noted as hung or crashed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    environment["OMP_NUM_THREADS"] = "1"
    span = [str(number) for number in (first, ALL, WORKERS, mutants, seed)]
    command = [sys.executable, str(ROOT / "tests" / "support" / "fuzz_worker.py"), str(home), *span]
    with (home / "err").open("w") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, env=environment, text=True)
    told: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_tell, args=(process, told), daemon=True)
    reader.start()
    begun, hung = None, False
    while True:
        try:
            line = told.get(timeout=STARTING if begun is None else PATIENCE)
        except queue.Empty:
            hung = True
            process.kill()
            break
        if not line:
            break
        word = json.loads(line)
        begun = word if word.get("begun") else None
        if begun is None:
            lines.append(word)
    code = process.wait()
    if begun is not None:
        lines.append(
            {**begun, "ending": "hung" if hung else "crashed", "seconds": PATIENCE if hung else 0.0, "extra": 0}
        )
    return code, begun


def _tell(process: subprocess.Popen[str], told: queue.Queue[str]) -> None:
    """Each line as soon as it comes, and an empty one at the end."""
    for line in process.stdout or ():
        told.put(line)
    told.put("")


def report(found: Found, mutants: int) -> str:
    endings = Counter(line["ending"] for line in found.endings)
    slowest = max(found.endings, key=lambda line: line["seconds"])
    largest = max(found.endings, key=lambda line: line["extra"])
    lines = [
        f"{mutants} mutants and {len(found.endings) - mutants} crafted files in {found.seconds:.0f} s: "
        f"{endings['refused']} refused, {endings['loaded']} loaded",
        f"  {found.executed} executed",
        *(f"  {len(wrong)} {what}" for what, wrong in found.wrong().items()),
        f"  slowest {slowest['seconds']:.2f} s ({slowest['kind']})",
        f"  largest {largest['extra'] / 2**20:.0f} MB over the base ({largest['kind']})",
        *(f"  {what}: {json.dumps(line)}" for what, wrong in found.wrong().items() for line in wrong[:40]),
    ]
    return "\n".join(lines)


def main() -> int:
    mutants = int(sys.argv[1]) if len(sys.argv) > 1 else MUTANTS
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), mutants)
    sys.stdout.write(report(found, mutants) + "\n")
    return 1 if found.executed or any(found.wrong().values()) else 0


if __name__ == "__main__":
    sys.exit(main())
