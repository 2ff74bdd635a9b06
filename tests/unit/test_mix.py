"""FeatureMixer's value: what a panel's JSON means, and 30 texts that it refuses."""

import json

import pytest
import torch

from sae.dictionary.statistics import FeatureStatistics
from sae.steering.edits import Calibration, Edit
from sae.steering.mix import EMPTY, parse_mix

RANGE = {"method": "add", "low": 0.1, "clear": 0.2, "high": 0.4}
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
