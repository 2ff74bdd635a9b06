"""A few things that are costly to make, kept as long as they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

Thing = TypeVar("Thing")  # never None


class Newest(Generic[Thing]):
    """The `most` things that were asked for last, by their keys. Safe across threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Thing] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Thing]) -> Thing:
        """The thing of a key; it is made where it is not known, and of two threads at once perhaps by both."""
        with self._lock:
            thing = self._kept.pop(key) if key in self._kept else None
            if thing is not None:
                self._kept[key] = thing
                return thing
        thing = make()
        with self._lock:
            self._kept[key] = thing
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return thing


def state_of_files(files: Iterable[Path]) -> tuple[tuple[str, int, int, int] | None, ...]:
    """What changes when one of the files does, in place or by another; None for one that is not there."""
    return tuple(map(_state, files))


def _state(file: Path) -> tuple[str, int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return str(file), found.st_mtime_ns, found.st_size, found.st_ino
