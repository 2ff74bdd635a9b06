"""Recipes: what is written is read, and everything else is refused in one sentence."""

import json
from dataclasses import replace

import pytest

from sae.places.site import parse_location
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
        (Edit(7, 1.0),), NeededSae(OURS), "transformer_blocks.18", "image", strength=0.2, pack="0.1.0", model="FLUX.1"
    )


def test_another_sae_is_refused_with_both_fingerprints():
    RECIPE.check_sae(NeededSae(OURS))
    other = "cd" * 32
    with pytest.raises(ValueError, match=rf"made with cc3m.* {OURS}, but the one connected is {other}; .*example\.org"):
        RECIPE.check_sae(NeededSae(other))
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
    "other model": changed(model="PixArt"),
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


MEMBERS = tuple(
    NeededSae(
        "12" * 32 if block else OURS, f"my attention {block}", site=parse_location(f"transformer_blocks.{block}.attn")
    )
    for block in range(2)
)
SET = NeededSae("set-" + "34" * 32, "shapes-attention", members=MEMBERS)
OF_A_SET = replace(RECIPE, sae=SET, location="auto", stream="auto")
# What version 2 looked like when it was first written. It must load for ever.
VERSION_2 = (
    """{"format": "sae-steering recipe", "version": 2, "note": "",
"features": [{"feature": 700, "strength": 1.0}], "replaces": [],
"method": "add", "strength": 0.2, "unit": "token_norm", "location": "auto",
"stream": "image", "start_percent": 0.0, "end_percent": 1.0, "apply_to": "both",
"sae": {"fingerprint": "set-BOTH", "name": "shapes-attention", "source": "", "members": [
{"fingerprint": "FIRST", "name": "a", "source": "", "location": "transformer_blocks.0.attn", "stream": "image"},
{"fingerprint": "OTHER", "name": "b", "source": "", "location": "single_blocks.1.attn", "stream": "image"}]},
"model": "FLUX", "pack": "0.2.0"}
""".replace("FIRST", OURS)
    .replace("OTHER", "12" * 32)
    .replace("BOTH", "34" * 32)
)


def test_a_recipe_of_a_set_is_version_2_and_of_one_sae_version_1():
    assert read_recipe(write_recipe(OF_A_SET)) == OF_A_SET
    content = json.loads(write_recipe(OF_A_SET))
    assert content["version"] == 2 and json.loads(write_recipe(RECIPE))["version"] == 1
    assert content["sae"]["members"][1] == {
        "fingerprint": "12" * 32, "name": "my attention 1", "source": "", "location": "transformer_blocks.1.attn",
        "stream": "image",
    }  # fmt: skip


def test_version_2_loads_for_ever():
    recipe = read_recipe(VERSION_2)
    assert recipe.features == (Edit(700, 1.0),) and (recipe.location, recipe.stream) == ("auto", "image")
    assert [(m.name, str(m.site)) for m in recipe.sae.members] == [
        ("a", "transformer_blocks.0.attn (image)"),
        ("b", "single_transformer_blocks.1.attn (image)"),
    ]


def test_what_differs_in_another_set_is_named():
    OF_A_SET.check_sae(SET)
    exchanged = replace(MEMBERS[1], fingerprint="56" * 32, name="other")
    more = replace(MEMBERS[0], site=parse_location("transformer_blocks.7.attn"))
    here = r"which has my attention 1 .*1212.* at transformer_blocks\.1\.attn \(image\), where the set connected has"
    for members, message in (
        ((MEMBERS[0], exchanged), rf"{here} other .*5656.*; exchange it\.$"),
        (MEMBERS[:1], rf"{here} none; add it\.$"),
        ((*MEMBERS, more), r"which has no SAE at transformer_blocks\.7\.attn \(image\), .* has one; leave it out\.$"),
    ):
        with pytest.raises(ValueError, match=rf"^sae: this recipe was made with another set, {message}"):
            OF_A_SET.check_sae(NeededSae("set-" + "78" * 32, "x", members=members))
    with pytest.raises(ValueError, match=r"needs the set shapes-attention of 2 SAEs, but the one SAE cc3m.* is conn"):
        OF_A_SET.check_sae(SAE)
    with pytest.raises(ValueError, match=r"needs the one SAE cc3m.*, but the set shapes-attention of 2 SAEs is conn"):
        RECIPE.check_sae(SET)


A_MEMBER = json.loads(VERSION_2)["sae"]["members"][0]


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        ({"fingerprint": OURS}, r"members must be a list of 2 to 200 SAEs"),
        ({"fingerprint": OURS, "members": [{}, {}]}, r"location is None, but a text is needed"),
        (
            {"fingerprint": OURS, "members": 2 * [A_MEMBER]},
            r"fingerprint is .* 'set-' and",
        ),
        (
            {"fingerprint": "set-" + OURS, "members": 2 * [{"location": "x", "stream": "auto"}]},
            r"'x' is not a place in FLUX",
        ),
    ],
)
def test_broken_members_are_refused(sae, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(json.dumps({**json.loads(VERSION_2), "sae": sae}))


def test_only_a_sets_place_may_be_auto():
    with pytest.raises(ValueError, match=r"^location: 'auto' is not a place in FLUX"):
        replace(RECIPE, location="auto")
    with pytest.raises(ValueError, match=r"^stream: 'both' came; use one of auto"):
        replace(OF_A_SET, stream="both")
