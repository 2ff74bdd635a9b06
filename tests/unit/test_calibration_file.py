"""Stored calibrations: each with its site and model, several of one feature side by side, those of version 0.1 read."""

import json
from pathlib import Path

import pytest

from sae.known.ranges import (
    Measured,
    Setting,
    fitting,
    mark_of_replaced,
    misfits,
    read_calibrations,
    setting_of,
    update_calibrations,
)
from sae.places.site import parse_location
from sae.steering.edits import Calibration, Edit

PRINT = "ab" * 32
RANGE, LESS, MORE = (Calibration("add", 0.05 * k, 0.2 * k, 0.4 * k) for k in (1.0, 0.5, 1.5))
SWAP, SWAP_TOO = Calibration("swap", 0.1, 1.0, 2.0), Calibration("swap", 0.2, 0.9, 2.0)
SITE, OTHER_SITE = parse_location("transformer_blocks.1"), parse_location("transformer_blocks.0-1.attn")
HERE = setting_of(SITE, "Flux-aa", ())


def test_models_sites_and_what_is_replaced_are_kept_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    settings = [HERE, setting_of(SITE, "Flux-bb", ()), setting_of(OTHER_SITE, "Flux-aa", ())]
    ranges = [RANGE, LESS, MORE]
    for setting, range_ in zip(settings, ranges, strict=True):
        assert update_calibrations(path, PRINT, {3: range_, 4: range_}, setting) == ""
    swaps = [setting_of(SITE, "Flux-aa", [Edit(k)]) for k in (7, 8)]
    update_calibrations(path, PRINT, {3: SWAP}, swaps[0])
    update_calibrations(path, PRINT, {3: SWAP_TOO}, swaps[1])
    known = read_calibrations(path, PRINT)
    assert len(known) == 8
    for setting, range_ in zip(settings, ranges, strict=True):
        assert fitting(known, setting) == ({"add": {3: range_, 4: range_}}, [])
    assert fitting(known, swaps[0])[0]["swap"] == {3: SWAP}
    assert fitting(known, swaps[1])[0]["swap"] == {3: SWAP_TOO}
    assert fitting(known, setting_of(OTHER_SITE, "Flux-bb", ())) == ({}, [])


def test_measuring_again_replaces_only_that_setting(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    other = setting_of(SITE, "Flux-bb", ())
    for range_, setting in ((RANGE, HERE), (LESS, other), (MORE, HERE)):
        update_calibrations(path, PRINT, {3: range_}, setting)
    assert read_calibrations(path, PRINT) == [Measured(3, LESS, other), Measured(3, MORE, HERE)]


def test_of_several_none_is_handed_out_where_it_is_not_known_which_is_meant() -> None:
    known = [Measured(3, RANGE, HERE), Measured(3, LESS, setting_of(SITE, "Flux-bb", ())), Measured(4, RANGE, HERE)]
    found, told = fitting(known, Setting(site=str(SITE)))
    assert found == {"add": {4: RANGE}}
    assert len(told) == 1
    assert told[0].startswith("Feature 3: calibrated on several models")
    assert fitting(known[::2], Setting()) == ({"add": {3: RANGE, 4: RANGE}}, [])


ONE = {
    "format": "sae-steering calibration",
    "version": 1,
    "fingerprint": PRINT,
    "methods": {
        "add": {"3": {"low": 0.05, "clear": 0.2, "high": 0.4}, "5": {"low": 0.05, "clear": 0.2, "high": 0.4}},
        "swap": {"3": {"low": 0.1, "clear": 1.0, "high": 2.0}},
    },
}


def test_a_file_of_version_1_is_used_where_nothing_better_is_known_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ONE))
    old = read_calibrations(path, PRINT)
    assert old == [Measured(3, RANGE, Setting()), Measured(5, RANGE, Setting()), Measured(3, SWAP, Setting())]
    found, [told] = fitting(old, HERE)
    assert found == {"add": {3: RANGE, 5: RANGE}, "swap": {3: SWAP}}
    assert told.startswith("Feature 3, 5: calibrated by version 0.1")
    assert update_calibrations(path, PRINT, {3: MORE}, HERE) == ""
    assert json.loads(path.read_text())["version"] == 2
    found, [told] = fitting(read_calibrations(path, PRINT), HERE)
    assert found == {"add": {3: MORE, 5: RANGE}, "swap": {3: SWAP}}
    elsewhere = setting_of(OTHER_SITE, "Flux-aa", ())
    assert fitting(read_calibrations(path, PRINT), elsewhere)[0]["add"] == {3: RANGE, 5: RANGE}


def test_the_mark_of_what_is_replaced() -> None:
    mark = mark_of_replaced([Edit(3, 0.5), Edit(7, 1.0)])
    assert len(mark) == 16
    assert mark == mark_of_replaced([Edit(7, 1.0, mean=2.0), Edit(3, 0.501)])
    assert len({mark, mark_of_replaced([Edit(3, 0.5)]), mark_of_replaced([Edit(3, 0.6), Edit(7)]), ""}) == 4
    assert mark_of_replaced([]) == ""


def test_what_is_steered_with_elsewhere_is_told() -> None:
    there = setting_of(OTHER_SITE, "Flux-aa", ())
    known = [
        Measured(3, RANGE, HERE), Measured(4, RANGE, there), Measured(5, LESS, Setting()),
        Measured(6, RANGE, there), Measured(6, RANGE, HERE), Measured(7, SWAP, setting_of(SITE, "Flux-aa", [Edit(9)])),
    ]  # fmt: skip
    used = [Edit(m.feature, calibration=m.calibration) for m in known]
    from_a_recipe = Edit(8, calibration=MORE)
    elsewhere, unknown = "calibrated on another model", "calibrated by version 0.1"
    first, second = misfits(known, [*used, from_a_recipe], HERE)
    assert first.startswith(f"Feature 5: {unknown}")
    assert second.startswith(f"Feature 4, 7: {elsewhere}")
    assert misfits(known, [used[0], used[3], from_a_recipe], HERE) == []
    assert misfits(known, used[5:], setting_of(SITE, "Flux-aa", [Edit(9)])) == []


def version_1(**changes):
    return json.dumps({**ONE, **changes})


def version_2(*calibrations, **changes):
    head = {"format": "sae-steering calibration", "version": 2, "fingerprint": PRINT}
    return json.dumps({**head, "calibrations": list(calibrations), **changes})


ENTRY = {"feature": 1, "method": "add", "low": 0.1, "clear": 0.2, "high": 0.3, "site": "x", "model": "y"}


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", '{"a": NaN}', version_1(format="x"), version_1(version=3), version_1(version="1"),
        version_1(fingerprint="cd" * 32), version_1(methods=[]), version_1(methods={"paint": {}}),
        version_1(methods={"add": []}), version_1(methods={"add": {"../x": {}}}),
        version_1(methods={"add": {"1": {"low": 0, "clear": 1}}}),
        version_1(methods={"add": {"1": {"low": 0, "clear": "<b>", "high": 2}}}),
        version_1(methods={"add": {"1": {"low": 3, "clear": 1, "high": 2}}}),
        version_1(methods={"add": {"1": {"low": True, "clear": True, "high": True}}}),
        version_2(fingerprint="cd" * 32), version_2(calibrations={}), version_2([]), version_2({"feature": 1}),
        *(
            version_2(ENTRY | {key: value})
            for key, value in [
                ("feature", "1"), ("feature", -1), ("feature", True), ("feature", 10**9), ("method", "paint"),
                ("method", []), ("low", None), ("clear", "0.2"), ("high", 0.15), ("site", 3), ("model", None),
                ("model", ["y"]), ("site", "x" * 1001), ("replaces", {}), ("owner", "z"),
            ]
        ),
    ],
)  # fmt: skip
def test_broken_files_are_told_and_set_aside(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"^x\.json"):
        read_calibrations(path, PRINT)
    assert "set aside as x.json.broken" in update_calibrations(path, PRINT, {1: RANGE}, HERE)
    assert (tmp_path / "x.json.broken").read_text() == content
    assert read_calibrations(path, PRINT) == [Measured(1, RANGE, HERE)]


def test_an_entry_may_leave_its_setting_open(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(version_2({key: value for key, value in ENTRY.items() if key != "model"}))
    assert read_calibrations(path, PRINT) == [Measured(1, Calibration("add", 0.1, 0.2, 0.3), Setting("x"))]
