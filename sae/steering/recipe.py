"""Recipes: a steering set-up as a small JSON object that people share, with the SAE that it needs.

Format 1, an object with: `format` "sae-steering recipe", `version` 1, `features` and `replaces` (lists of objects with
feature, strength and, where known, name, mean, max, share, unit, calibration), `method`, `strength`, `unit`,
`location`, `stream`, `start_percent`, `end_percent`, `apply_to`, `sae` (fingerprint, name, source), `model` (the
family's name, empty where it is not known; "FLUX", of 0.1, is FLUX.1), `pack` (the version that wrote it) and `note`. A
region belongs to a picture and is kept apart. Versions once written stay readable.

Format 2 is written for a set of SAEs, whose features are numbered through in the order of its members. Its `sae` has
`members` too, a list of objects with fingerprint, name, source, location and stream, and `location` and `stream` may be
`auto`: all of its places.

Format 3 is either of these with more: a gate, `where_active`, a list of objects as `features` is one, and
`active_above`; and `keep_norm`, true or false. Without a gate, `where_active` is empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..dictionary.fingerprint import SET
from ..files.quote import quoted, shown
from ..files.small_json import parse_object
from ..places.families import FAMILIES, family_named
from ..places.moment import SIDES, Schedule, Side
from ..places.site import STREAMS, Site, parse_location
from .edit_json import number, read_edit, write_edit
from .edits import UNITS, Edit, Method, Unit
from .methods import DEFAULT, METHODS
from .steering_inputs import EVERY_TOKEN, Gate

FORMAT, VERSION = "sae-steering recipe", 3
OLD_NAMES = {"FLUX": "FLUX.1"}  # of families, in recipes of version 0.1
MOST_FEATURES = 1000
MOST_MEMBERS = 200
MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class NeededSae:
    """The SAE of a recipe: SHA-256 of its weights, what it is called, and where to get it; of a set its members."""

    fingerprint: str
    name: str = ""
    source: str = ""
    site: Site | None = None  # of a member
    members: tuple[NeededSae, ...] = ()

    def __str__(self) -> str:
        if self.members:
            members = "; ".join(f"{member} at {member.site}" for member in self.members)
            return f"the set {shown(self.name)} of {members}"
        where = f", to be had from {shown(self.source)}" if self.source else ""
        return f"{shown(self.name) or 'an SAE'} (fingerprint {self.fingerprint[:12]}…{where})"


@dataclass(frozen=True)
class Recipe:
    """What FluxActivationSteer is told, but for the model and the region."""

    features: tuple[Edit, ...]
    sae: NeededSae
    location: str
    stream: str
    method: Method = DEFAULT
    strength: float = 1.0
    unit: Unit = "token_norm"
    start_percent: float = 0.0
    end_percent: float = 1.0
    apply_to: Side = "both"
    replaces: tuple[Edit, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    note: str = ""
    pack: str = ""
    model: str = ""  # the family's name, empty where it is not known
    gate: Gate = EVERY_TOKEN
    keep_norm: bool = False

    @property
    def version(self) -> int:
        """The least that can say all of it, so that a pack which knows less refuses it."""
        if self.gate or self.keep_norm:
            return 3
        return 2 if self.sae.members else 1

    def __post_init__(self) -> None:
        """Raises ValueError for anything that FluxActivationSteer would not take."""
        for name, value, known in (
            ("method", self.method, METHODS),
            ("unit", self.unit, UNITS),
            ("apply_to", self.apply_to, SIDES),
        ):
            if value not in known:
                raise ValueError(f"{name}: {quoted(value)} came; use one of {', '.join(known)}.")
        Schedule(self.start_percent, self.end_percent)
        if self.sae.members and self.location == "auto":
            if self.stream not in ("auto", *STREAMS):
                raise ValueError(f"stream: {quoted(self.stream)} came; use one of auto, {', '.join(STREAMS)}.")
        else:
            parse_location(self.location, self.stream)

    def check_family(self, family: str) -> None:
        """ValueError when the recipe is for another family of models."""
        if self.model and self.model != family:
            raise ValueError(
                f"recipe: it is for {self.model}, but this model is {family}; connect a model of {self.model}."
            )

    def check_sae(self, found: NeededSae) -> None:
        """ValueError when another SAE came, with both fingerprints; of a set it names what differs."""
        wanted = self.sae
        if found.fingerprint == wanted.fingerprint:
            return
        if wanted.members and found.members:
            raise ValueError(f"sae: this recipe was made with another set, {_difference(wanted, found)}.")
        if wanted.members or found.members:
            raise ValueError(
                f"sae: this recipe needs {_told(wanted)}, but {_told(found)} is connected; load the recipe's."
            )
        raise ValueError(
            f"sae: this recipe was made with {shown(wanted.name) or 'the SAE'} {wanted.fingerprint}, but the one "
            f"connected is {found.fingerprint}; load the "
            f"recipe's{f' from {shown(wanted.source)}' if wanted.source else ''}."
        )


def _told(sae: NeededSae) -> str:
    return f"the set {shown(sae.name)} of {len(sae.members)} SAEs" if sae.members else f"the one SAE {shown(sae.name)}"


def _difference(wanted: NeededSae, found: NeededSae) -> str:
    """The first place at which two sets differ."""
    theirs = {member.site: member for member in found.members}
    for member in wanted.members:
        other = theirs.pop(member.site, None)
        if other is None:
            return f"which has {member} at {member.site}, where the set connected has none; add it"
        if other.fingerprint != member.fingerprint:
            return f"which has {member} at {member.site}, where the set connected has {other}; exchange it"
    more = ", ".join(map(str, theirs))
    return f"which has no SAE at {more}, where the set connected has one; leave it out"


def write_recipe(recipe: Recipe) -> str:
    """The recipe as JSON, on several lines."""
    content = {
        "format": FORMAT,
        "version": recipe.version,
        "note": recipe.note,
        "features": [_named(edit, recipe.names) for edit in recipe.features],
        "replaces": [_named(edit, recipe.names) for edit in recipe.replaces],
        **_more(recipe),
        **{name: getattr(recipe, name) for name in _PLAIN},
        "sae": _needed(recipe.sae),
        "model": recipe.model,
        "pack": recipe.pack,
    }
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)


def _more(recipe: Recipe) -> dict[str, Any]:
    if recipe.version < 3:
        return {}
    return {
        "where_active": [_named(edit, recipe.names) for edit in recipe.gate.edits],
        "active_above": recipe.gate.above,
        "keep_norm": recipe.keep_norm,
    }


def _needed(sae: NeededSae) -> dict[str, Any]:
    told: dict[str, Any] = {"fingerprint": sae.fingerprint, "name": sae.name, "source": sae.source}
    if sae.site is not None:
        told |= {"location": sae.site.location, "stream": sae.site.stream}
    return {**told, "members": [_needed(member) for member in sae.members]} if sae.members else told


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
    return recipe_from(parse_object(text, "recipe: the text"))


def recipe_from(content: Mapping[str, Any]) -> Recipe:
    """The recipe in a JSON object; ValueError, in one sentence, for anything else."""
    if content.get("format") != FORMAT:
        raise ValueError(f"recipe: its format is {quoted(content.get('format'))}, but {FORMAT!r} is needed.")
    version = content.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
        raise ValueError(
            f"recipe: its version is {quoted(version)}, but this pack reads 1 to {VERSION}; update the pack."
        )
    model = _family(content.get("model", ""))
    names: dict[int, str] = {}
    lists = {key: tuple(_edits(content.get(key, []), key, names)) for key in ("features", "replaces")}
    plain = {key: _text(content.get(key), key) for key in _TEXTS}
    numbers = {key: number(content.get(key), f"recipe: {key}") for key in _FLOATS}
    more = {key: _text(content.get(key, ""), key) for key in ("note", "pack")}
    sae, gate, keep_norm = _sae(content.get("sae"), version), EVERY_TOKEN, False
    if version >= 3:
        above = number(content.get("active_above"), "recipe: active_above")
        gate = Gate(tuple(_edits(content.get("where_active"), "where_active", names)), above)
        keep_norm = _switch(content.get("keep_norm"), "keep_norm")
    told: dict[str, Any] = {**lists, **plain, **numbers, **more}
    return Recipe(sae=sae, gate=gate, keep_norm=keep_norm, names=names, model=model, **told)


def _switch(found: Any, key: str) -> bool:
    if not isinstance(found, bool):
        raise ValueError(f"recipe: {key} is {quoted(found)}, but true or false is needed.")
    return found


def _family(found: Any) -> str:
    name = OLD_NAMES.get(found, found) if isinstance(found, str) else None
    if name is None or (name and family_named(name) is None):
        known = ", ".join(family.name for family in FAMILIES)
        raise ValueError(f"recipe: it is for {quoted(found)} models, but only {known} can be steered.")
    return name


def _edits(found: Any, key: str, names: dict[int, str]) -> Sequence[Edit]:
    if not isinstance(found, list) or len(found) > MOST_FEATURES or (key == "features" and not found):
        raise ValueError(f"recipe: {key} must be a list of features, {MOST_FEATURES} at most.")
    edits = []
    for entry in found:
        if not isinstance(entry, dict) or not {"feature", "strength"} <= set(entry):
            raise ValueError(f"recipe: {key} has {quoted(entry)}, but each needs a feature and a strength.")
        edit = read_edit(entry, "recipe")
        if "name" in entry:
            names[edit.feature] = _text(entry["name"], "name")[:200]
        edits.append(edit)
    return edits


def _sae(found: Any, version: int) -> NeededSae:
    if not isinstance(found, dict):
        raise ValueError("recipe: it does not say which SAE it needs; save it again.")
    if version == 1:
        return _one(found)
    members = found.get("members")
    if version >= 3 and members is None:
        return _one(found)
    if (
        not isinstance(members, list)
        or not 2 <= len(members) <= MOST_MEMBERS
        or not all(isinstance(m, dict) for m in members)
    ):
        raise ValueError(f"recipe: members must be a list of 2 to {MOST_MEMBERS} SAEs; save it again.")
    sites = [parse_location(*(_text(member.get(key), key) for key in ("location", "stream"))) for member in members]
    needed = tuple(replace(_one(member), site=site) for member, site in zip(members, sites, strict=True))
    return replace(_one(found, SET), members=needed)


def _one(found: Mapping[str, Any], prefix: str = "") -> NeededSae:
    """What is said of an SAE, or of a set beside its members; `prefix` begins its fingerprint."""
    mark = _text(found.get("fingerprint"), "fingerprint")
    digits = mark.removeprefix(prefix)
    if len(mark) != len(prefix) + 64 or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise ValueError(
            f"recipe: fingerprint is {quoted(mark)}, but {f'{prefix!r} and ' if prefix else ''}64 hexadecimal digits "
            "are needed."
        )
    name, source = (_text(found.get(key, ""), key)[:500] for key in ("name", "source"))
    return NeededSae(mark, name, source)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"recipe: {name} is {quoted(value)}, but a text is needed.")
    return value
