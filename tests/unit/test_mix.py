"""FeatureMixer's value: what a panel's JSON means, and 30 texts that it refuses."""

import json
from dataclasses import replace

import pytest
import torch

from sae.dictionary.owner import Owner
from sae.dictionary.statistics import FeatureStatistics
from sae.steering.edits import Calibration, Edit
from sae.steering.mixer_value import EMPTY, beyond_mix, mix_of, parse_mix
from sae.steering.recipe import NeededSae, Recipe

RANGE = {"method": "add", "low": 0.1, "clear": 0.2, "high": 0.4}
OWNER = Owner("ab" * 16, "ours")
STATISTICS = FeatureStatistics(None, torch.tensor([0.0, 2.0, 3.0]), None, 10)


def rows(*entries) -> str:
    return json.dumps({"rows": entries})


def test_rows_become_edits_in_their_order_without_those_that_are_off() -> None:
    text = rows(
        {"feature": 7, "strength": 0.5, "unit": "token_norm", "name": "red"},
        {"feature": 3, "on": False},
        {"feature": 5, "strength": -2, "on": True, "unit": "mean", "mean": 1.5, "max": 4, "share": 0.25},
        {"feature": 2, "calibration": RANGE, "unit": "calibrated"},
    )
    assert parse_mix(text, 8) == [
        Edit(7, 0.5, unit="token_norm"),
        Edit(5, -2.0, 1.5, 4.0, 0.25, "mean"),
        Edit(2, 1.0, unit="calibrated", calibration=Calibration(**RANGE)),
    ]


def test_a_row_without_a_unit_takes_the_best_that_is_known() -> None:
    text = rows({"feature": 0}, {"feature": 1}, {"feature": 0, "max": 2.5}, {"feature": 2, "calibration": RANGE})
    assert [edit.unit for edit in parse_mix(text, 3, STATISTICS)] == ["token_norm", "max", "max", "calibrated"]
    assert [edit.unit for edit in parse_mix(text, 3)] == ["token_norm", "token_norm", "max", "calibrated"]


def test_a_panel_that_is_off_is_muted() -> None:
    assert parse_mix(EMPTY, 8).muted
    off = parse_mix(rows({"feature": 1, "on": False}), 8)
    assert (list(off), off.muted) == ([], True)
    assert not parse_mix(rows({"feature": 1}), 8).muted


def test_rows_on_solo_steer_alone_whether_they_are_on_or_not() -> None:
    text = rows({"feature": 1}, {"feature": 2, "solo": True, "on": False}, {"feature": 3, "solo": False})
    assert [edit.feature for edit in parse_mix(text, 8)] == [2]


def test_the_strength_of_all_multiplies_that_of_each_row() -> None:
    mix = {"strength": -0.5, "rows": [{"feature": 1, "strength": 3, "unit": "max"}, {"feature": 2}]}
    assert [edit.strength for edit in parse_mix(json.dumps(mix), 8)] == [-1.5, -0.5]
    assert [edit.strength for edit in parse_mix(json.dumps({**mix, "strength": 0}), 8)] == [0, 0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no valid JSON"), ("{", "no valid JSON"), ("[]", "a JSON list"), ("7", "a JSON int"), ("null", "NoneType"),
        ('{"rows": NaN}', "no valid JSON"), ("{}", "rows must be a list"), ('{"rows": {}}', "rows must be a list"),
        ("[" * 100000, "no valid JSON"), ('{"rows": "<img onerror=alert(1)>"}', "rows must be a list"),
        (json.dumps({"rows": [{"feature": 1}] * 501}), "up to 500"), ("x" * 1_000_001, "1,000,000 characters"),
        (rows(7), "row 1 must be an object"), (rows({}), "row 1 must be an object"),
        (rows({"feature": 1}, {"strength": 2}), "row 2 must be an object"),
        (rows({"feature": 1, "<b>": 2}), "row 1 must be an object"), (rows({"feature": 8}), "names feature 8"),
        (rows({"feature": -1}), "names feature -1"), (rows({"feature": 1.5}), "names feature 1.5"),
        (rows({"feature": True}), "names feature True"), (rows({"feature": "../x"}), "names feature '../x'"),
        (rows({"feature": 1, "on": "yes"}), "on must be true or false"), (rows({"feature": 1, "name": 3}), "a text"),
        (rows({"feature": 1, "solo": 1}), "solo too"), ('{"rows": [], "strength": "2"}', "strength is '2'"),
        ('{"rows": [], "strength": null}', "strength is None"),
        (rows({"feature": 1, "strength": "2"}), "strength is '2'"), (rows({"feature": 1, "strength": 1e300}), "finite"),
        (rows({"feature": 1, "strength": True}), "finite number"), (rows({"feature": 1, "max": []}), "max is []"),
        (rows({"feature": 1, "unit": "volts"}), "'volts' is not a unit"),
        (rows({"feature": 1, "unit": ["max"]}), "unit"),
        (rows({"feature": 1, "calibration": 3}), "calibration needs"),
        (rows({"feature": 1, "calibration": {**RANGE, "low": 9}}), "low ≤ clear"),
        (rows({"feature": 1, "calibration": {**RANGE, "method": "paint"}}), "known method"),
        (rows({"feature": 1, "calibration": {**RANGE, "method": []}}), "row 1"),
        (rows({"feature": 1, "calibration": {**RANGE, "x": 1}}), "calibration needs"),
    ],
)  # fmt: skip
def test_hostile_texts_are_refused_in_one_sentence(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"^mix: ") as error:
        parse_mix(text, 8)
    message = str(error.value)
    assert told in message
    assert len(message) < 300
    assert "\n" not in message


RECIPE = Recipe(
    features=(Edit(3, 0.5, 1.25, 4.0, 0.1), Edit(2, -1.0, unit="max", max=2.0)),
    sae=NeededSae("ab" * 32, "x"), location="transformer_blocks.0", stream="text", method="swap", strength=1.5,
    unit="mean", start_percent=0.1, end_percent=0.9, apply_to="cond", replaces=(Edit(5),), names={3: "<b>", 5: "y"},
)  # fmt: skip


def test_a_recipe_in_the_panel_steers_as_it_did() -> None:
    mix = mix_of(RECIPE, OWNER)
    assert [row.get("name") for row in mix["rows"]] == ["<b>", None]
    edits = parse_mix(json.dumps(mix), 8, owner=OWNER)
    assert edits == [Edit(3, 0.75, 1.25, 4.0, 0.1, "mean"), Edit(2, -1.5, max=2.0, unit="max")]
    assert edits.warnings == ()  # each row says whose its numbers are
    with pytest.raises(ValueError, match="mix: row 1 and its feature 3 belong to ours"):
        parse_mix(json.dumps(mix), 8, owner=Owner("cd" * 16, "theirs"))
    with pytest.raises(ValueError, match="recipe: it has 501 features, but a panel has up to 500 rows"):
        mix_of(replace(RECIPE, features=(Edit(1),) * 501), OWNER)


def test_what_a_panel_cannot_hold_of_a_recipe_is_told() -> None:
    assert beyond_mix(RECIPE) == (
        "It was saved with method swap, location transformer_blocks.0, stream text, percent 0.1 to 0.9, apply_to cond, "
        "replaces with the features 5."
    )
    plain = replace(RECIPE, method="add", replaces=(), start_percent=0.0, end_percent=1.0, apply_to="both")
    assert beyond_mix(plain) == "It was saved with method add, location transformer_blocks.0, stream text."
