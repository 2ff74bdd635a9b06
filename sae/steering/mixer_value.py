"""The value of FeatureMixer: a list of features with their sliders, as one JSON text that needs no browser to run.

An object with `strength` (1, optional), which multiplies that of every row, and `rows`, a list of objects with
`feature` (index) and, each optional, `strength` (1), `on` (true), `solo` (false), `unit`, `name` and `first`, the
strength that the row began with (both for the reader only), `mean`, `max`, `share`, `calibration` (method, low, clear,
high) and `owner` (identity and name of the SAE that the row's numbers were measured on; rows of version 0.1 have none).
Where rows are soloed, these alone steer. A row without a unit takes the best that is known of its feature: calibrated,
else max, else token_norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ..dictionary.owner import Owner
from ..dictionary.statistics import FeatureStatistics
from ..files.quote import quoted, shown
from ..files.small_json import parse_object
from .edit_json import KEYS, number, read_edit, write_edit
from .edits import Edit, FeatureList, Unit
from .recipe import Recipe

EMPTY = '{"rows": []}'
MOST_ROWS = 500
MOST_CHARACTERS = 1_000_000
_KEYS = {*KEYS, "on", "solo", "name", "owner", "first"}


def parse_mix(
    text: str, d_sae: int, statistics: FeatureStatistics | None = None, owner: Owner | None = None
) -> FeatureList:
    """The edits of the rows that steer, in their order; ValueError, in one sentence, for any other text.

    `d_sae`, `statistics` and `owner` are those of the SAE connected; a row of another owner is refused. Where no row
    steers, the list is empty and says so: whoever steers with it then leaves things as they are.
    """
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise ValueError(f"mix: a JSON text of up to {MOST_CHARACTERS:,} characters is needed, such as {EMPTY}.")
    content = parse_object(text, "mix: the text")
    rows = content.get("rows")
    if not isinstance(rows, list) or len(rows) > MOST_ROWS:
        raise ValueError(f"mix: its rows must be a list of up to {MOST_ROWS} features, such as {EMPTY}.")
    edits = [_edit(row, f"mix: row {place}", d_sae, statistics, owner) for place, row in enumerate(rows, 1)]
    strength = number(content.get("strength", 1.0), "mix: strength")
    switch = "solo" if any(row.get("solo") for row in rows) else "on"
    on = [
        (replace(edit, strength=strength * edit.strength), row)
        for edit, row in zip(edits, rows, strict=True)
        if row.get(switch, switch == "on")
    ]
    unowned = FeatureList(edit for edit, row in on if row.get("owner") is None).warnings
    return FeatureList((edit for edit, _ in on), muted=not on, owner=owner, warnings=unowned)


def mix_of(recipe: Recipe, owner: Owner) -> dict[str, Any]:
    """The value of a panel whose features steer as the recipe's do, where the node that steers multiplies by 1.

    `owner` is that of the recipe's SAE. ValueError for more features than a panel has rows.
    """
    if len(recipe.features) > MOST_ROWS:
        raise ValueError(f"recipe: it has {len(recipe.features)} features, but a panel has up to {MOST_ROWS} rows.")
    rows = [
        {
            **write_edit(edit),
            "unit": edit.unit or recipe.unit,
            "on": True,
            **({"name": recipe.names[edit.feature]} if edit.feature in recipe.names else {}),
            "owner": asdict(owner),
        }
        for edit in recipe.features
    ]
    return {"strength": recipe.strength, "rows": rows}


def beyond_mix(recipe: Recipe) -> str:
    """What a recipe says beside its features, in one sentence: it is set at the node that steers."""
    replaced = ", ".join(str(edit.feature) for edit in recipe.replaces)
    percents = f"{recipe.start_percent:g} to {recipe.end_percent:g}"
    parts = [
        f"method {recipe.method}",
        f"location {shown(recipe.location)}",
        f"stream {shown(recipe.stream)}",
        *([f"percent {percents}"] if percents != "0 to 1" else []),
        *([f"apply_to {recipe.apply_to}"] if recipe.apply_to != "both" else []),
        *([f"replaces with the features {shown(replaced)}"] if replaced else []),
    ]
    return f"It was saved with {', '.join(parts)}."


def _edit(
    row: Any, where: str, d_sae: int, statistics: FeatureStatistics | None, owner: Owner | None
) -> Edit:  # fmt: skip
    if not isinstance(row, dict) or "feature" not in row or not set(row) <= _KEYS:
        raise ValueError(f"{where} must be an object with feature and, each optional, {', '.join(sorted(_KEYS))}.")
    feature = row["feature"]
    if owner is not None and row.get("owner") is not None:
        owner.check(_owner(row["owner"], where), f"{where} and its feature {quoted(feature)} belong")
    if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < d_sae:
        raise ValueError(f"{where} names feature {quoted(feature)}, but the SAE has 0 to {d_sae - 1}.")
    if not all(isinstance(row.get(switch, True), bool) for switch in ("on", "solo")):
        raise ValueError(f"{where}: on must be true or false, and solo too.")
    if not isinstance(row.get("name", ""), str):
        raise ValueError(f"{where}: name is {quoted(row['name'])}, but a text is needed.")
    number(row.get("first", 1.0), f"{where}: first")
    edit = read_edit(row, where)
    return edit if edit.unit is not None else replace(edit, unit=_best_unit(edit, statistics))


def _owner(found: Any, where: str) -> Owner:
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        raise ValueError(f"{where}: owner is {quoted(found)}, but identity and name of an SAE are needed.")
    try:
        return Owner(found.get("identity", ""), found["name"][:200])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _best_unit(edit: Edit, statistics: FeatureStatistics | None) -> Unit:
    if edit.calibration is not None:
        return "calibrated"
    stored = None if statistics is None or statistics.max is None else float(statistics.max[edit.feature])
    return "max" if (stored if edit.max is None else edit.max) else "token_norm"
