"""What the browser may ask of an SAE's features: those of a search, pages of all of them, their pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ...sae.dictionary.fingerprint import fingerprint
from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.files.quote import quoted
from ...sae.files.recent import Newest
from ...sae.hosts.comfyui.own_folders import notebooks
from ...sae.known.gallery import browse
from ...sae.known.labels import Labels, search
from ...sae.known.notebook import FIRST, Notebook
from ...sae.known.ranges import Setting
from .payloads import feature_payload, pictures_payload
from .sae_sources import SaeSources
from .server_memory import Use

MOST_FEATURES = 200  # of one answer
ORDERS = 4  # sorted lists that are kept


class FeatureQueries:
    """Answers the routes. What was read for one answer is kept for the next, while the files stay as they are."""

    def __init__(self, sources: SaeSources) -> None:
        self._sources = sources
        self._notebooks = notebooks()
        self._orders = Newest[list[int]](ORDERS)

    def find(self, query: Mapping[str, str]) -> dict[str, Any]:
        """What is known of features: of those named by `index`, else of those whose label has all the words of `q`.

        Of an SAE that only its `fingerprint` tells, the user's labels and calibrations are known, not its statistics;
        of a set no labels, for they are kept for its members, and nobody knows which these are.
        The calibrations are those that fit what a graph last steered with.
        """
        sae = self._sources.open(query)
        mark = query.get("fingerprint", "") if sae is None else fingerprint(sae)
        notebook = self._notebook(sae, mark)
        labels = notebook.read_labels()
        numbers = indices(query["index"]) if query.get("index") else search(labels, query.get("q", ""))[:MOST_FEATURES]
        return self._told(sae, notebook, numbers, labels)

    def browse(self, query: Mapping[str, str]) -> dict[str, Any]:
        """A page of all features in the order of `sort`, or of those that `q` means: `many` of them after `first`.

        Each with its pictures, if it has any. `total` is how many there are in all pages.
        """
        sae, mark = self._sources.opened(query)
        notebook = self._notebook(sae, mark)
        labels = notebook.read_labels()
        density = None if sae.statistics is None else sae.statistics.density
        words, sort = query.get("q", ""), query.get("sort", "number")
        key = (mark, notebook.state_of_labels(), words, sort, _digest(density))
        order = self._orders.get(key, lambda: browse(sae.d_sae, labels, density, words, sort))
        first, many = _whole(query, "first", 0), min(_whole(query, "many", MOST_FEATURES), MOST_FEATURES)
        page = order[first : first + many]
        told = self._told(sae, notebook, page, labels)
        gallery, pictures = pictures_payload(notebook.pictures(page))
        rows = [
            {**row, **({"pictures": pictures[row["feature"]]} if row["feature"] in pictures else {})}
            for row in told["features"]
        ]
        about = {"total": len(order), "first": first, "has_density": density is not None}
        return {**told, **about, "features": rows, "gallery": gallery}

    def pictures(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The pictures on which the features of `index` fire most, as in tables."""
        sae, mark = self._sources.opened(query)
        numbers = [number for number in indices(query.get("index", "")) if number < sae.d_sae]
        gallery, pictures = pictures_payload(self._notebook(sae, mark).pictures(numbers))
        return {"fingerprint": mark, "owner": asdict(sae.owner), "gallery": gallery, "pictures": pictures}

    def _told(self, sae: AnySae | None, notebook: Notebook, numbers: Sequence[int], labels: Labels) -> dict[str, Any]:
        mark = notebook.fingerprint
        if isinstance(sae, SaeSet):
            self._sources.seen.by_fingerprint[mark] = sae  # so that its features can be named
        if sae is not None:
            numbers = [number for number in numbers if number < sae.d_sae]
        use = self._sources.seen.used.get(mark, Use(FIRST, Setting()))
        ranges, misfits = notebook.offered(use.setting, use.method, numbers)
        statistics = None if sae is None else sae.statistics
        return {
            "fingerprint": mark,
            "sae": None if sae is None else sae.name,
            "owner": None if sae is None else asdict(sae.owner),
            "count": None if sae is None else sae.d_sae,
            "features": [feature_payload(number, labels.get(number), statistics, ranges) for number in numbers],
            "warnings": [*notebook.warnings, *misfits],
        }

    def _notebook(self, sae: AnySae | None, mark: str) -> Notebook:
        return self._notebooks.of_fingerprint(mark) if sae is None else self._notebooks.of(sae)


def _digest(numbers: Tensor | None) -> str:
    return "" if numbers is None else hashlib.sha256(numbers.contiguous().numpy().tobytes()).hexdigest()


def indices(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MOST_FEATURES or not all(_is_whole(part) for part in parts):
        raise ValueError(f"index: {quoted(text, 40)} came; give up to {MOST_FEATURES} whole numbers, such as 3,17.")
    return [int(part) for part in parts]


def _whole(query: Mapping[str, str], name: str, preset: int) -> int:
    text = query.get(name, str(preset))
    if not _is_whole(text):
        raise ValueError(f"{name}: {quoted(text, 40)} came; a whole number from 0 up is needed.")
    return int(text)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9
