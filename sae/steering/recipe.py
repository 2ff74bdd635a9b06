"""Recipes: a steering set-up as a small JSON object that people share, with the SAE that it needs.

Format 1, an object with: `format` "sae-steering recipe", `version` 1, `features` and `replaces` (lists of objects with
feature, strength and, where known, name, mean, max, share, unit, calibration), `method`, `strength`, `unit`,
`location`, `stream`, `start_percent`, `end_percent`, `apply_to`, `sae` (fingerprint, name, source), `model` (the
family), `pack` (the version that wrote it) and `note`. A region belongs to a picture and is kept apart. Versions once
written stay readable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..files.small_json import parse_object
from ..places.moment import SIDES, Schedule, Side
from ..places.site import parse_location
from .edit_json import number, read_edit, short, write_edit
from .edits import METHODS, UNITS, Edit, Method, Unit

FORMAT, VERSION = "sae-steering recipe", 1
MODEL = "FLUX"
MOST_FEATURES = 1000
MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class NeededSae:
    """The SAE of a recipe: SHA-256 of its weights, what it is called, and where to get it."""

    fingerprint: str
    name: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = f", to be had from {self.source}" if self.source else ""
        return f"{self.name or 'an SAE'} (fingerprint {self.fingerprint[:12]}…{where})"


@dataclass(frozen=True)
class Recipe:
    """What FluxActivationSteer is told, but for the model and the region."""

    features: tuple[Edit, ...]
    sae: NeededSae
    location: str
    stream: str
    method: Method = "add"
    strength: float = 1.0
    unit: Unit = "token_norm"
    start_percent: float = 0.0
    end_percent: float = 1.0
    apply_to: Side = "both"
    replaces: tuple[Edit, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    note: str = ""
    pack: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for anything that FluxActivationSteer would not take."""
        for name, value, known in (
            ("method", self.method, METHODS),
            ("unit", self.unit, UNITS),
            ("apply_to", self.apply_to, SIDES),
        ):
            if value not in known:
                raise ValueError(f"{name}: {value!r} came; use one of {', '.join(known)}.")
        Schedule(self.start_percent, self.end_percent)
        parse_location(self.location, self.stream)

    def check_sae(self, fingerprint: str) -> None:
        """ValueError when another SAE came, with both fingerprints."""
        if fingerprint != self.sae.fingerprint:
            raise ValueError(
                f"sae: this recipe was made with {self.sae.name or 'the SAE'} {self.sae.fingerprint}, but the one "
                f"connected is {fingerprint}; load the recipe's{f' from {self.sae.source}' if self.sae.source else ''}."
            )


def write_recipe(recipe: Recipe) -> str:
    """The recipe as JSON, on several lines."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "note": recipe.note,
        "features": [_named(edit, recipe.names) for edit in recipe.features],
        "replaces": [_named(edit, recipe.names) for edit in recipe.replaces],
        **{name: getattr(recipe, name) for name in _PLAIN},
        "sae": {"fingerprint": recipe.sae.fingerprint, "name": recipe.sae.name, "source": recipe.sae.source},
        "model": MODEL,
        "pack": recipe.pack,
    }
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)


_TEXTS = ("method", "unit", "location", "stream", "apply_to")
_FLOATS = ("strength", "start_percent", "end_percent")
_PLAIN = ("method", "strength", "unit", "location", "stream", "start_percent", "end_percent", "apply_to")


def _named(edit: Edit, names: Mapping[int, str]) -> dict[str, Any]:
    return {**write_edit(edit), **({"name": names[edit.feature]} if edit.feature in names else {})}


def read_recipe(text: str) -> Recipe:
    """The recipe in a text; ValueError, in one sentence, for anything else."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"recipe: it has {len(text):,} characters, but no recipe has more than {MOST_CHARACTERS:,}.")
    if not text.strip():
        raise ValueError("recipe: it is empty; paste the JSON that SaveRecipe wrote.")
    content = parse_object(text, "recipe: the text")
    if content.get("format") != FORMAT:
        raise ValueError(f"recipe: its format is {short(content.get('format'))}, but {FORMAT!r} is needed.")
    version = content.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
        raise ValueError(
            f"recipe: its version is {short(version)}, but this pack reads 1 to {VERSION}; update the pack."
        )
    if content.get("model", MODEL) != MODEL:
        raise ValueError(f"recipe: it is for {short(content['model'])} models, but only {MODEL} can be steered.")
    names: dict[int, str] = {}
    lists = {key: tuple(_edits(content.get(key, []), key, names)) for key in ("features", "replaces")}
    plain = {key: _text(content.get(key), key) for key in _TEXTS}
    numbers = {key: number(content.get(key), f"recipe: {key}") for key in _FLOATS}
    more = {key: _text(content.get(key, ""), key) for key in ("note", "pack")}
    return Recipe(sae=_sae(content.get("sae")), names=names, **lists, **plain, **numbers, **more)  # type: ignore[arg-type]


def _edits(found: Any, key: str, names: dict[int, str]) -> Sequence[Edit]:
    if not isinstance(found, list) or len(found) > MOST_FEATURES or (key == "features" and not found):
        raise ValueError(f"recipe: {key} must be a list of features, {MOST_FEATURES} at most.")
    edits = []
    for entry in found:
        if not isinstance(entry, dict) or not {"feature", "strength"} <= set(entry):
            raise ValueError(f"recipe: {key} has {short(entry)}, but each needs a feature and a strength.")
        edit = read_edit(entry, "recipe")
        if "name" in entry:
            names[edit.feature] = _text(entry["name"], "name")[:200]
        edits.append(edit)
    return edits


def _sae(found: Any) -> NeededSae:
    if not isinstance(found, dict):
        raise ValueError("recipe: it does not say which SAE it needs; save it again.")
    digits = _text(found.get("fingerprint"), "fingerprint")
    if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise ValueError(f"recipe: fingerprint is {short(digits)}, but 64 hexadecimal digits are needed.")
    return NeededSae(digits, *(_text(found.get(key, ""), key)[:500] for key in ("name", "source")))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"recipe: {name} is {short(value)}, but a text is needed.")
    return value
