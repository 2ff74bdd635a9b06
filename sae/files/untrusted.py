"""Plain values of what was unpickled or parsed: a copy of bounded depth and size, made before anything looks at it.

A few kilobytes of lists that hold the same list over and over unfold to more than any memory, and so does whoever
compares, prints or hashes them. A config needs a few hundred plain values; what is beyond the bounds is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

DEEPEST = 12  # SAELens nests a runner's config 4 deep
MOST_VALUES = 50_000  # a config has some hundred; a history of losses inside a training checkpoint may have thousands
MOST_ENTRIES = 10_000  # of one list or dictionary
LONGEST = 100_000  # characters of a text
MOST_BITS = 128  # of a whole number; torch's have 64


@dataclass(frozen=True)
class Unread:
    """Stands for what is no plain value: a tensor, an object, or something beyond the bounds."""

    what: str

    def __str__(self) -> str:
        return self.what


class Plain:
    """Makes plain copies within one budget of values."""

    def __init__(self, values: int = MOST_VALUES) -> None:
        self.left = values

    def copy(self, value: object, depth: int = DEEPEST) -> Any:
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
