"""JSON and CSV that people send each other: labels, ranges, recipes, mixes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from crafted import MARKS, TEXT, TRAINER, Use, case, written
from hostile_pickle import nested, saved
from layouts import linear
from sae.dictionary.fingerprint import fingerprint
from sae.formats import load
from sae.known.labels import LabelStore, labels_from_text, read_labels, shipped_labels
from sae.known.ranges import read_calibrations
from sae.steering.mixer_value import parse_mix
from sae.steering.recipe import read_recipe

MARK = "ab" * 32
HUGE = 10**400
RECIPE = {
    "format": "sae-steering recipe", "version": 1, "note": "", "features": [{"feature": 7, "strength": 1.0}],
    "replaces": [], "method": "add", "strength": 0.2, "unit": "token_norm", "location": "transformer_blocks.18",
    "stream": "image", "start_percent": 0.0, "end_percent": 1.0, "apply_to": "both",
    "sae": {"fingerprint": MARK, "name": "", "source": ""}, "model": "FLUX", "pack": "0.1.0",
}  # fmt: skip
LABELS = {"format": "sae-steering labels", "version": 1, "fingerprint": MARK, "labels": {"3": {"name": "snow"}}}
RANGES = {"format": "sae-steering calibration", "version": 2, "fingerprint": MARK, "calibrations": []}
RANGE = {"feature": 1, "method": "add", "low": 0.1, "clear": 0.2, "high": 0.3}
ODD = {
    "400 digits": HUGE, "-400 digits": -HUGE, "a text of 0.9 MB": TEXT[:900_000], "marks": MARKS * 30,
    "nested 900": nested(900), "a list of 100,000": list(range(100_000)), "an object": {MARKS: MARKS}, "true": True,
}  # fmt: skip

for _name, _odd in ODD.items():
    for _key in RECIPE:

        @case(f"recipe whose {_key} is {_name}")
        def _recipe(folder: Path, key: str = _key, odd: object = _odd) -> Use:
            text = json.dumps({**RECIPE, key: odd})
            return lambda: read_recipe(text)

    for _key in ("feature", "strength", "mean", "max", "share", "unit", "calibration", "name"):

        @case(f"recipe, {_key} of a feature is {_name}")
        def _recipe_feature(folder: Path, key: str = _key, odd: object = _odd) -> Use:
            text = json.dumps({**RECIPE, "features": [{"feature": 7, "strength": 1.0, key: odd}]})
            return lambda: read_recipe(text)

        @case(f"mix, {_key} of a row is {_name}")
        def _mix(folder: Path, key: str = _key, odd: object = _odd) -> Use:
            text = json.dumps({"rows": [{"feature": 7, "strength": 1.0, key: odd}]})
            return lambda: parse_mix(text, 64)

    for _key in RANGE:

        @case(f"ranges, {_key} is {_name}")
        def _range(folder: Path, key: str = _key, odd: object = _odd) -> Use:
            written(folder, "r.json", {**RANGES, "calibrations": [{**RANGE, key: odd}]})
            return lambda: read_calibrations(folder / "r.json", MARK)

    for _key in ("format", "version", "fingerprint", "labels"):

        @case(f"labels whose {_key} is {_name}")
        def _labels(folder: Path, key: str = _key, odd: object = _odd) -> Use:
            written(folder, "l.json", {**LABELS, key: odd})
            return lambda: read_labels(folder / "l.json", MARK)

        @case(f"ranges whose {_key} is {_name}")
        def _ranges(folder: Path, key: str = _key, odd: object = _odd) -> Use:
            written(folder, "r.json", {**RANGES, key: odd})
            return lambda: read_calibrations(folder / "r.json", MARK)

    for _key in ("name", "note", "source", "score"):

        @case(f"labels, {_key} of one is {_name}")
        def _label(folder: Path, key: str = _key, odd: object = _odd) -> Use:
            written(folder, "l.json", {**LABELS, "labels": {"3": {"name": "snow", key: odd}}})
            return lambda: read_labels(folder / "l.json", MARK)

        @case(f"labels beside an SAE, {_key} of one is {_name}, name nothing and stop nothing")
        def _shipped(folder: Path, key: str = _key, odd: object = _odd) -> Use:
            written(folder, "config.json", TRAINER)
            path = saved(folder / "ae.pt", linear("bias", "encoder.bias"))
            written(folder, "ae.labels.json", {"3": {"name": "snow", key: odd}})
            return lambda: _names(path, folder)


def _names(path: Path, folder: Path) -> object:
    """What a node does that shows names."""
    sae = load(path, within=[folder])
    store = LabelStore(folder / "user")
    found = store.labels(fingerprint(sae), shipped_labels(sae))
    if len(found) + len(store.warnings) != 1:
        raise AssertionError((found, store.warnings))
    if store.warnings:
        raise ValueError(store.warnings[0])
    return found


@case("labels that are a link out of the model folders")
def _link(folder: Path) -> Use:
    models, outside = folder / "models", folder / "outside"
    models.mkdir()
    outside.mkdir()
    written(models, "config.json", TRAINER)
    written(outside, "secret.json", {"3": "the secret"})
    path = saved(models / "ae.pt", linear("bias", "encoder.bias"))
    (models / "ae.labels.json").symlink_to(outside / "secret.json")
    return lambda: _names(path, models)


@case("labels that are a pipe")
def _pipe(folder: Path) -> Use:
    os.mkfifo(folder / "l.json")
    return lambda: read_labels(folder / "l.json", MARK)


for _name, _text in {
    "a field of 200,000 characters": f"index,name\n3,{'x' * 200_000}\n",
    "a quote without an end": 'index,name\n3,"' + "x" * 200_000, "a header of 15 MB": TEXT,
    "an index of 5000 digits": f"index,name\n{'9' * 5000},x\n", "a zero byte": "index,name\n3,a\0b\n",
    "marks": f"index,name\n{MARKS},{MARKS}\n", "too many columns": "index,name\n3,x,y,z\n",
}.items():  # fmt: skip

    @case(f"CSV with {_name}")
    def _csv(folder: Path, text: str = _text) -> Use:
        return lambda: labels_from_text(text, "theirs.csv")


@case("a label file of 16 MB of lists")
def _large(folder: Path) -> Use:
    written(folder, "l.json", '{"a":[' + "[]," * 5_500_000 + "0]}")
    return lambda: read_labels(folder / "l.json", MARK)
