"""Names of features: what people or LabelFeatures call them, kept in one file for each SAE's fingerprint."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.contrast import SIDES
from ..files.quote import AllowedFolders, quoted, shown
from ..files.small_json import UnreadableError, is_number, parse_object, read_json, update_json, write_json
from ..files.whole import locked

FORMAT, VERSION = "sae-steering labels", 1
SUFFIX = ".labels.json"  # beside a checkpoint
LONGEST = {"name": 200, "note": 2000, "source": 200}
MOST_LABELS = 1_000_000
SOURCES = ("LabelFeatures", "LabelEmbedFeatures")  # what was found by words, and gives way to what somebody wrote


@dataclass(frozen=True)
class Label:
    """What a feature is called. `score` is how surely, 0 to 1, in so many `contexts`, where something measured it."""

    name: str
    note: str = ""
    source: str = ""
    score: float | None = None
    contexts: int | None = None

    def __post_init__(self) -> None:
        for name, most in LONGEST.items():
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) > most:
                raise ValueError(f"{name}: {quoted(text, 40)} came; a text of up to {most} characters is needed.")
        if not self.name.strip():
            raise ValueError("name: it is empty; give the feature a name, or remove the label.")
        if self.score is not None and not is_number(self.score):
            raise ValueError(f"score: {quoted(self.score)} came; a number is needed.")
        if self.contexts is not None and (type(self.contexts) is not int or not 0 < self.contexts < 10**9):
            raise ValueError(f"contexts: {quoted(self.contexts)} came; a whole number of 1 or more is needed.")


Labels = dict[int, Label]


def contrast_labels(sae: SparseAutoencoder) -> Labels:
    """What the directions of a contrast are called: by the first prompt of each side; nothing for an SAE."""
    if sae.contrast is None:
        return {}
    found: Labels = {}
    for feature, (side, texts) in enumerate(zip(SIDES, (sae.contrast.positive, sae.contrast.negative), strict=True)):
        first = " ".join(texts[0].split())[: LONGEST["name"] - 2] if texts else side
        found[feature] = Label((first or "no words") + (" …" if len(texts) > 1 else ""), source="contrast")
    return found


_KEYS = {part.name for part in fields(Label)}


def read_labels(path: Path, fingerprint: str | None = None) -> Labels:
    """Labels of a file; ValueError when it is broken, or made for an SAE with another fingerprint."""
    return labels_from(read_json(path, "label file"), shown(path.name), fingerprint)


def labels_from(content: Mapping[str, Any], name: str, fingerprint: str | None = None) -> Labels:
    """As `read_labels`, of a JSON object. Either our own format, or plainly {index: name}."""
    plain = "labels" not in content
    if not plain:
        _check_head(content, name, fingerprint)
    entries = content if plain else content["labels"]
    if not isinstance(entries, Mapping) or len(entries) > MOST_LABELS:
        raise ValueError(f"{name}: its labels must be an object of up to {MOST_LABELS:,} entries, index to label.")
    return {_index(key, name): _label(value, f"{name}: label {shown(str(key), 20)}") for key, value in entries.items()}


def _check_head(content: Mapping[str, Any], name: str, fingerprint: str | None) -> None:
    if content.get("format") != FORMAT:
        raise ValueError(f"{name}: its format is {quoted(content.get('format'))}, but {FORMAT!r} is needed.")
    version = content.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise ValueError(
            f"{name}: its version is {quoted(version)}, but this pack reads up to {VERSION}; update the pack."
        )
    theirs = content.get("fingerprint")
    if fingerprint is not None and theirs not in (None, fingerprint):
        raise ValueError(
            f"{name}: its labels belong to the SAE {_first_digits(theirs)}…, but this one is {fingerprint[:12]}…; "
            f"use the "
            "labels of this SAE."
        )


def _first_digits(fingerprint: object) -> str:
    return shown(fingerprint[:12]) if isinstance(fingerprint, str) else quoted(fingerprint, 12)


def _index(key: object, name: str) -> int:
    if not isinstance(key, str) or not key.isdecimal() or len(key) > 9 or not key.isascii():
        raise ValueError(f"{name}: {quoted(key, 40)} is not the index of a feature; use whole numbers from 0 up.")
    return int(key)


def _label(value: object, where: str) -> Label:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not set(value) <= _KEYS or "name" not in value:
        raise ValueError(f"{where} needs a name, and may have note, source, score and contexts.")
    try:
        return Label(**value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def labels_from_text(text: str, name: str, fingerprint: str | None = None) -> Labels:
    """Labels that somebody else wrote: JSON, or CSV with a header that has index (or feature) and name (or label)."""
    if text.lstrip().startswith("{"):
        return labels_from(parse_object(text, f"{name}: this label file"), name, fingerprint)
    try:
        return _labels_from_csv(text, name)
    except csv.Error as error:
        raise ValueError(f"{name}: it is no CSV that can be read ({error}); write one feature a line.") from error


def _labels_from_csv(text: str, name: str) -> Labels:
    rows = csv.DictReader(io.StringIO(text))
    columns = {column.strip().lower(): column for column in rows.fieldnames or []}
    index = next((columns[key] for key in ("index", "feature", "id") if key in columns), None)
    title = next((columns[key] for key in ("name", "label", "description") if key in columns), None)
    if index is None or title is None:
        raise ValueError(f"{name}: its first line must name the columns index and name; note is optional.")
    note = columns.get("note", "")
    return {
        _index((row[index] or "").strip(), name): _label(
            {"name": (row[title] or "").strip(), "note": (row.get(note) or "").strip(), "source": name},
            f"{name}: line {rows.line_num}",
        )
        for row in rows
    }


def write_labels(path: Path, labels: Mapping[int, Label], fingerprint: str) -> None:
    """Writes the file in one go, whatever it held before."""
    write_json(path, labels_content(labels, fingerprint))


def labels_content(labels: Mapping[int, Label], fingerprint: str) -> dict[str, Any]:
    """What stands in a label file."""
    entries = {str(index): _slim(label) for index, label in sorted(labels.items())}
    return {"format": FORMAT, "version": VERSION, "fingerprint": fingerprint, "labels": entries}


def _slim(label: Label) -> dict[str, Any]:
    return {name: value for name, value in asdict(label).items() if value not in ("", None)}


def search(labels: Mapping[int, Label], words: str, indices: Iterable[int] | None = None) -> list[int]:
    """Features whose name or note has all the words: those called so first, then other names, then notes."""
    wanted = words.lower().split()
    known = sorted(labels if indices is None else (index for index in indices if index in labels))
    found = [
        index for index in known if all(word in f"{labels[index].name} {labels[index].note}".lower() for word in wanted)
    ]

    def distance(index: int) -> int:
        name = labels[index].name.lower()
        if name == " ".join(wanted):
            return 0
        if not all(word in name for word in wanted):
            return 3
        return 1 if name.startswith(wanted[0] if wanted else "") else 2

    return sorted(found, key=distance)


_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def merge(known: Labels, found: Labels) -> Labels:
    """What of the found labels may be written: a name stays that somebody gave, or that more contexts found."""

    def gives_way(old: Label, new: Label) -> bool:
        return old.source in SOURCES and (old.contexts or 0) <= (new.contexts or 0)

    return {k: label for k, label in found.items() if k not in known or gives_way(known[k], label)}


@dataclass(frozen=True)
class ShippedFile:
    """Labels that came with an SAE. Its folder may be somebody else's, so links are followed only so far."""

    path: Path
    allowed: AllowedFolders = field(default_factory=AllowedFolders)

    def read(self, fingerprint: str) -> Labels:
        """None are there without a file; ValueError when it is broken, of another SAE, or a link that leads out."""
        self.allowed.check(self.path, shown(self.path.name))
        return read_if_there(self.path, fingerprint)

    def update(self, found: Labels, fingerprint: str) -> Labels:
        """Writes names over those of the same features; all that the file has now."""
        with locked(self.path):
            labels = (read_labels(self.path, fingerprint) if self.path.is_file() else {}) | found
            write_labels(self.path, labels, fingerprint)
        return labels


def read_if_there(path: Path, fingerprint: str) -> Labels:
    """As `read_labels`; no labels where there is no file."""
    try:
        there = path.is_file()
    except OSError as error:
        raise UnreadableError(f"{shown(path.name)}: this label file cannot be read ({error.strerror}).") from error
    return read_labels(path, fingerprint) if there else {}


@dataclass
class LabelStore:
    """Reads and writes labels below `folder`; what went wrong while reading is kept in `warnings`."""

    folder: Path
    warnings: list[str] = field(default_factory=list)

    def path(self, fingerprint: str) -> Path:
        """The user's file; ValueError for what is no fingerprint, such as a path."""
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise ValueError(f"fingerprint: {quoted(fingerprint, 80)} is none; 64 hexadecimal digits are needed.")
        return self.folder / f"{fingerprint}.json"

    def labels(self, fingerprint: str, shipped: ShippedFile | None = None) -> Labels:
        """The user's labels over those of the `shipped` file. Names are a help: what is broken is told, and names
        nothing."""
        theirs = {} if shipped is None else self._read(lambda: shipped.read(fingerprint))
        return theirs | self._read(lambda: read_if_there(self.path(fingerprint), fingerprint))

    def _read(self, read: Callable[[], Labels]) -> Labels:
        try:
            return read()
        except ValueError as error:
            self.warnings.append(str(error))
            return {}

    def update(self, fingerprint: str, changes: Mapping[int, Label | None]) -> Labels:
        """Sets labels of the user's file, and removes those that are None; returns what it holds now.

        A broken file is renamed, not overwritten.
        """
        return self._change(fingerprint, lambda known: changes)

    def add(self, fingerprint: str, found: Labels, shipped: ShippedFile | None = None) -> Labels:
        """Writes what a tool found, but never over a name that somebody gave; returns what it wrote."""
        from_sae = {} if shipped is None else self._read(lambda: shipped.read(fingerprint))
        written: Labels = {}

        def changes(known: Labels) -> Labels:
            written.update(merge(from_sae | known, found))
            return written

        self._change(fingerprint, changes)
        return written

    def _change(self, fingerprint: str, changes: Callable[[Labels], Mapping[int, Label | None]]) -> Labels:
        """`changes` are asked of what the file holds while nobody else can change it."""
        labels: Labels = {}

        def changed(known: Labels | None) -> dict[str, Any]:
            labels.update(known or {})
            for index, label in changes(labels).items():
                if label is None:
                    labels.pop(index, None)
                else:
                    labels[index] = label
            return labels_content(labels, fingerprint)

        path = self.path(fingerprint)
        told = update_json(path, lambda file: read_labels(file, fingerprint), changed)
        self.warnings += [told] if told else []
        return labels


def shipped_labels(sae: SparseAutoencoder) -> ShippedFile | None:
    """The label file beside an SAE's weights, whether it is there or not; None for an SAE that was made in memory."""
    if sae.origin is None:
        return None
    weights = sae.origin.files[0]
    return ShippedFile(weights.with_name(weights.stem + SUFFIX), AllowedFolders(sae.origin.within))
