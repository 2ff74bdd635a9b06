"""All features of a dictionary in an order to look through, or those that a few words or a number mean."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..files.quote import quoted
from .labels import Label, search

SORTS = ("number", "name", "density", "rarity")


def browse(
    count: int, labels: Mapping[int, Label], density: Tensor | None, words: str = "", sort: str = "number"
) -> list[int]:
    """The features 0 to `count` − 1 that `words` mean, in the order of `sort`; without words all of them.

    Words are looked for as `search` does. A number means the feature of that number, which comes first, and names that
    have its digits. Names go from A to Z, those without one last. `density` sorts those that fire most often first,
    `rarity` those that fire least often, and the dead last. Features that are equal stay in the order of their numbers.
    ValueError for another `sort`, or where the densities (count,) are not known.
    """
    if sort not in SORTS:
        raise ValueError(f"sort: {quoted(sort, 40)} came; use one of {', '.join(SORTS)}.")
    found = _meant(words.strip(), count, labels)
    if sort == "name":
        found.sort(key=lambda k: (k not in labels, labels[k].name.lower() if k in labels else ""))
    elif sort != "number":
        if density is None:
            raise ValueError(
                f"sort: {sort} needs to know how often each feature fires; measure it with TopActivatingFeatures and "
                "its input save_statistics."
            )
        often = density.tolist()
        found.sort(key=lambda k: -often[k] if sort == "density" else (often[k] or float("inf")))
    if _is_number(words):
        found.sort(key=lambda k: k != int(words))
    return found


def _meant(words: str, count: int, labels: Mapping[int, Label]) -> list[int]:
    if not words:
        return list(range(count))
    if not _is_number(words):
        return sorted(k for k in search(labels, words) if k < count)
    named = {k for k, label in labels.items() if words in label.name}  # notes are full of digits
    return sorted(k for k in named | {int(words)} if k < count)


def _is_number(words: str) -> bool:
    text = words.strip()
    return text.isascii() and text.isdecimal() and len(text) <= 9
