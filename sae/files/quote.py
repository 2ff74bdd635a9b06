"""What a message shows of a file's content or name: short, on one line, and looked at only so far.

Every text and value that comes from a file goes through here on its way into a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from .untrusted import Unread

LONGEST_TEXT = 100  # of a file's name or path
LONGEST_VALUE = 60
MOST_ITEMS = 6  # of a list; as many dimensions has a shape at most
DEEPEST = 2
MOST_BITS = 128  # of a whole number that is written out


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
