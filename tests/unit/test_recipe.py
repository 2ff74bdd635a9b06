"""Recipes: what is written is read, and everything else is refused in one sentence."""

import json

import pytest

from sae.steering.edits import Edit
from sae.steering.recipe import NeededSae, Recipe, read_recipe, write_recipe

OURS = "ab" * 32
SAE = NeededSae(OURS, "cc3m-transformer_blocks.18-1/model", "https://example.org/model.safetensors")
RECIPE = Recipe(
    features=(Edit(3, 0.5, 1.25, 4.0, 0.1), Edit(12, -1.0)),
    sae=SAE,
    location="transformer_blocks.0-18",
    stream="image",
    method="swap",
    strength=1.5,
    unit="mean",
    start_percent=0.1,
    end_percent=0.9,
    apply_to="cond",
    replaces=(Edit(40, 0.3, 2.0, 3.0, 0.2),),
    names={3: "<b>snow</b>", 40: "雪"},
    note="winter",
    pack="0.1.0",
)
# What version 1 looked like when it was first written. It must load for ever.
VERSION_1 = """{"format": "sae-steering recipe", "version": 1, "note": "",
"features": [{"feature": 7, "strength": 1.0}], "replaces": [],
"method": "add", "strength": 0.2, "unit": "token_norm", "location": "transformer_blocks.18",
"stream": "image", "start_percent": 0.0, "end_percent": 1.0, "apply_to": "both",
"sae": {"fingerprint": "FINGERPRINT", "name": "", "source": ""}, "model": "FLUX", "pack": "0.1.0"}
""".replace("FINGERPRINT", OURS)


def test_what_is_written_is_read():
    assert read_recipe(write_recipe(RECIPE)) == RECIPE
    assert json.loads(write_recipe(RECIPE))["features"][0] == {
        "feature": 3, "name": "<b>snow</b>", "strength": 0.5, "mean": 1.25, "max": 4.0, "share": 0.1,
    }  # fmt: skip


def test_version_1_loads_for_ever():
    recipe = read_recipe(VERSION_1)
    assert recipe == Recipe(
        (Edit(7, 1.0),), NeededSae(OURS), "transformer_blocks.18", "image", strength=0.2, pack="0.1.0"
    )


def test_another_sae_is_refused_with_both_fingerprints():
    RECIPE.check_sae(OURS)
    other = "cd" * 32
    with pytest.raises(ValueError, match=rf"made with cc3m.* {OURS}, but the one connected is {other}; .*example\.org"):
        RECIPE.check_sae(other)
    assert str(SAE).endswith("(fingerprint abababababab…, to be had from https://example.org/model.safetensors)")


def changed(**values):
    return json.dumps({**json.loads(VERSION_1), **values})


HOSTILE = {
    "empty": "  ",
    "no json": "swap 3 by 5",
    "truncated": VERSION_1[:-30],
    "a list": "[]",
    "deep": "[" * 200_000,
    "huge": " " * 1_000_001,
    "nan": VERSION_1.replace("0.2", "NaN"),
    "infinite": VERSION_1.replace("0.2", "1e999"),
    "label file": json.dumps({"format": "sae-steering labels", "version": 1, "labels": {}}),
    "newer": changed(version=2),
    "version true": changed(version=True),
    "version text": changed(version="1"),
    "other model": changed(model="SDXL"),
    "model a list": changed(model=["FLUX"]),
    "no features": changed(features=[]),
    "features an object": changed(features={"7": 1}),
    "too many features": changed(features=[{"feature": 1, "strength": 1}] * 1001),
    "feature negative": changed(features=[{"feature": -1, "strength": 1}]),
    "feature a fraction": changed(features=[{"feature": 1.5, "strength": 1}]),
    "feature true": changed(features=[{"feature": True, "strength": 1}]),
    "feature a path": changed(features=[{"feature": "../../x", "strength": 1}]),
    "strength a text": changed(features=[{"feature": 1, "strength": "1"}]),
    "strength missing": changed(features=[{"feature": 1}]),
    "mean a text": changed(features=[{"feature": 1, "strength": 1, "mean": "high"}]),
    "name a number": changed(features=[{"feature": 1, "strength": 1, "name": 4}]),
    "unknown method": changed(method="explode"),
    "method a list": changed(method=["add"]),
    "unknown unit": changed(unit="metres"),
    "unknown side": changed(apply_to="left"),
    "window reversed": changed(start_percent=0.9, end_percent=0.1),
    "window outside": changed(end_percent=2),
    "no place": changed(location="somewhere"),
    "location missing": changed(location=None),
    "stream missing": changed(stream=None),
    "stream wrong": changed(stream="joint"),
    "no sae": changed(sae=None),
    "short fingerprint": changed(sae={"fingerprint": "abc"}),
    "fingerprint a path": changed(sae={"fingerprint": "/" * 64}),
    "source a number": changed(sae={"fingerprint": OURS, "source": 3}),
    "note a list": changed(note=[]),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_recipes_are_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match=r"^[a-z_, ]+: ") as failure:
        read_recipe(text)
    assert "\n" not in str(failure.value) and len(str(failure.value)) < 400
