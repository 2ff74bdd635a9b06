"""Somebody else's file, looked at only so far: what messages show of it, plain copies, and where its links may lead.

Every text and value that comes from a file goes through `shown` or `quoted` on its way into a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

LONGEST_TEXT = 100  # of a file's name or path
LONGEST_VALUE = 60
MOST_ITEMS = 6  # of a list; as many dimensions has a shape at most
DEEPEST = 2
MOST_BITS = 128  # of a whole number that is written out or copied; torch's have 64


def shown(text: str, most: int = LONGEST_TEXT) -> str:
    """A name without quotes: what does not print is escaped, and of a long one the middle is left out."""
    return _shortened(_escaped(_shortened(text, most)), most)


def quoted(value: object, most: int = LONGEST_VALUE) -> str:
    """A value as Python writes it; of a list its first items, of anything but plain values the kind."""
    return _shortened(_written(value, DEEPEST, most), most)


def _shortened(text: str, most: int) -> str:
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def _escaped(text: str) -> str:
    """Control characters, line ends, marks of direction and halves of a character are not printable."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _written(value: object, depth: int, most: int) -> str:
    if isinstance(value, int) and value.bit_length() > MOST_BITS:  # writing out takes time, and Python refuses many
        return f"a whole number of about {int(value.bit_length() * 0.30103)} digits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (str, bytes)):
        return repr(_shortened(value, most - 2) if isinstance(value, str) else value[:most])
    if isinstance(value, (list, tuple)):
        return f"[{_listed((_written(item, depth - 1, most) for item in value), len(value), depth)}]"
    if isinstance(value, dict):
        pairs = (f"{_written(k, 0, most)}: {_written(v, depth - 1, most)}" for k, v in dict.items(value))
        return f"{{{_listed(pairs, len(value), depth)}}}"
    return str(value) if isinstance(value, Unread) else f"a {type(value).__name__}"


def _listed(items: Iterable[str], count: int, depth: int) -> str:
    if not depth:
        return "…" if count else ""
    return ", ".join(islice(items, MOST_ITEMS)) + (", …" if count > MOST_ITEMS else "")


DEEPEST_CONFIG = 12  # SAELens nests a runner's config 4 deep
MOST_VALUES = 50_000  # a config has some hundred; a history of losses inside a training checkpoint may have thousands
MOST_ENTRIES = 10_000  # of one list or dictionary
LONGEST = 100_000  # characters of a text


@dataclass(frozen=True)
class Unread:
    """Stands for what is no plain value: a tensor, an object, or something beyond the bounds."""

    what: str

    def __str__(self) -> str:
        return self.what


class Plain:
    """Makes plain copies of what was unpickled or parsed, within one budget of values, before anything looks at it.

    A few kilobytes of lists that hold the same list over and over unfold to more than any memory, and so does whoever
    compares, prints or hashes them. A config needs a few hundred plain values; what is beyond the bounds is left out.
    """

    def __init__(self, values: int = MOST_VALUES) -> None:
        self.left = values

    def copy(self, value: object, depth: int = DEEPEST_CONFIG) -> Any:
        """None, a bool, a number, a text, a list or a dict of these; `Unread` in place of everything else."""
        self.left -= 1
        kind = type(value)
        if value is None or kind in (bool, float):
            return value
        if isinstance(value, int):
            return int(value) if value.bit_length() <= MOST_BITS else Unread("a whole number of hundreds of digits")
        if isinstance(value, str):
            return value if len(value) <= LONGEST else Unread(f"a text of {len(value)} characters")
        if isinstance(value, (list, tuple, dict)):
            if len(value) > min(MOST_ENTRIES, self.left) or not depth:
                return Unread(f"a {kind.__name__} that is too large or nested too deeply")
            if isinstance(value, dict):
                return self._entries(value, depth)
            return [self.copy(item, depth - 1) for item in value]
        return Unread("a tensor" if isinstance(value, Tensor) else f"a {kind.__name__}")

    def _entries(self, value: dict[Any, object], depth: int) -> dict[str, Any]:
        """`dict.items` and not `value.items`: an unpickled OrderedDict may have an attribute of that name."""
        texts = ((key, entry) for key, entry in dict.items(value) if type(key) is str and len(key) <= LONGEST)
        return {key: self.copy(entry, depth - 1) for key, entry in texts}


@dataclass(frozen=True)
class AllowedFolders:
    """Where files may lie that came from somewhere else, links followed only so far; without folders, anywhere."""

    folders: Sequence[Path] = ()

    def check(self, path: Path, label: str) -> None:
        """Raises ValueError when the file's real place, links resolved, is outside all folders."""
        real = path.resolve()
        if self.folders and not any(real.is_relative_to(folder.resolve()) for folder in self.folders):
            raise ValueError(
                f"{label}: {shown(path.name)} is a link that leads out of the model folders; put the file itself "
                f"there, or "
                f"add its folder to extra_model_paths.yaml."
            )
