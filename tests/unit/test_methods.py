"""A method is one file: nobody else knows its word, and everybody follows what its file says."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from made_up_method import made_up_method
from project_files import ROOT, python_files, relative
from sae.dictionary.sae_set import SaeSet
from sae.known.ranges import Measured, Setting
from sae.places.site import parse_location
from sae.steering import methods
from sae.steering.calibration import Reading, alone, calibrate, calibrated_methods
from sae.steering.delta import Steering
from sae.steering.edit_json import read_calibration
from sae.steering.edits import Calibration, Edit
from sae.steering.methods import METHODS, collected, method_for
from sae.steering.recipe import NeededSae, Recipe, read_recipe, write_recipe
from sae.steering.set_up import Wanted, spread
from sae.steering.sweep import rows_of
from small_saes import D_IN, dense_codes, dense_directions, small_sae

NAMES = ["add", "set", "scale", "boost_if_active", "project_out", "surgery", "swap", "replace"]
HOME = "sae/steering/methods/"
OTHER_MEANINGS = {("sae/files/pickle_check.py", "set")}  # Python's builtin, by its name in a pickle
PLACES = [parse_location(f"transformer_blocks.{block}", "image") for block in range(3)]
ECHOING = [Edit(3, 0.5), Edit(17, -1.5)]
HEARD = [Edit(5, 0.8, mean=1.0, density=0.5), Edit(9, 1.5, mean=2.0, density=0.25)]


@pytest.fixture
def echo() -> Iterator[str]:
    with made_up_method(methods) as name:
        yield name


@pytest.fixture
def x() -> Tensor:
    return torch.randn((2, 30, D_IN), generator=torch.Generator().manual_seed(5)) * 2 + 0.4


def words_asked_for(source: str) -> Iterator[tuple[int, str]]:
    """(line, word) of every text that is compared, matched, looked up, or in a literal that something may be in."""
    for node in ast.walk(ast.parse(source)):
        asked: list[ast.AST | None] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            asked = [*node.elts]
        elif isinstance(node, ast.Dict):
            asked = [*node.keys]
        elif isinstance(node, ast.Subscript):
            asked = [node.slice]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        for part in asked:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


def test_words_that_are_asked_for_are_seen() -> None:
    source = """
if method == "add" or "set" != method or method in ("scale", "swap", "replace"): pass
table = {"surgery": 1}["project_out"]
match method:
    case "boost_if_active": pass
def steer(method="add"): pass
"""
    assert sorted(word for _, word in words_asked_for(source)) == sorted(NAMES)


def test_no_other_module_asks_for_a_method_by_its_word() -> None:
    found = [
        f"{relative(path)}:{line}: {word}"
        for path in python_files("sae", "nodes")
        if not relative(path).startswith(HOME)
        for line, word in words_asked_for(path.read_text(encoding="utf-8"))
        if word in NAMES and (relative(path), word) not in OTHER_MEANINGS
    ]
    assert found == []


def test_the_panel_has_no_table_of_methods() -> None:
    words = "|".join(NAMES)
    known = re.compile(
        rf"""["']({words})["']|\b(boost_if_active|project_out)\b|^ *(set|scale|swap): ["'`]""", re.MULTILINE
    )
    assert [path.name for path in (ROOT / "web").rglob("*.js") if known.search(path.read_text(encoding="utf-8"))] == []


def test_the_files_make_the_list_in_its_order() -> None:
    assert list(METHODS) == list(collected()) == NAMES
    files = {path.stem for path in (ROOT / HOME).glob("*.py")} - {"__init__", "sharing", "shift", "steering_method"}
    assert len(files) == len(NAMES)
    for method in METHODS.values():
        file = ROOT / HOME / ("boost.py" if method.name == "boost_if_active" else f"{method.name}.py")
        assert file.read_text(encoding="utf-8").startswith(f'"""{method.name}: Δ = ')


def test_auto_means_a_method_that_takes_the_lists_it_gets() -> None:
    assert not METHODS[method_for("auto", [])].needs_replaces
    assert METHODS[method_for("auto", HEARD)].needs_replaces
    assert method_for("scale", HEARD) == "scale"


def nodes_with_methods(language: str) -> dict[str, str]:
    """Node id -> tooltip of its `method`, of the nodes that offer every method."""
    stored = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    tips = {
        node: told["inputs"]["method"]["tooltip"] for node, told in stored.items() if "method" in told.get("inputs", {})
    }
    return {node: tip for node, tip in tips.items() if node != "CalibrateStrength"}


@pytest.mark.parametrize("name", NAMES)
def test_people_read_the_sentence_of_the_file(name: str) -> None:
    words = METHODS[name].words
    english, chinese = nodes_with_methods("en"), nodes_with_methods("zh")
    assert set(english) == set(chinese) and len(english) == 4
    assert all(f"{name}: {words.en} · " in tip for tip in english.values())
    assert all(re.search(rf"{name}：{re.escape(words.zh)} ?[·。]", tip) for tip in chinese.values())
    page = (ROOT / "web" / "docs" / "FluxActivationSteer.md").read_text(encoding="utf-8")
    assert f"| {name} | {words.en} |" in page
    page = (ROOT / "web" / "docs" / "ClipEmbedSteer.md").read_text(encoding="utf-8")
    assert f"- `{name}`: {words.en}.\n" in page
    page = (ROOT / "web" / "docs" / "FeatureMixer.md").read_text(encoding="utf-8")
    assert f"| {name} | {METHODS[name].strength_means} |" in page


def test_a_made_up_method_changes_what_its_formula_says(echo: str, x: Tensor) -> None:
    f, d = dense_codes("relu", x), dense_directions("relu")
    heard = (0.8 * f[..., 5] + 1.5 * f[..., 9]).unsqueeze(-1)
    steering = Steering(small_sae("relu"), ECHOING, echo, 2.0, "raw", HEARD)
    change = steering.change(x)
    torch.testing.assert_close(change.delta, heard * (1.0 * d[3] - 3.0 * d[17]), rtol=2e-5, atol=2e-5)
    assert change.presence is not None
    torch.testing.assert_close(change.presence, heard.squeeze(-1) / (0.8 * 0.5 + 1.5 * 0.5), rtol=2e-5, atol=2e-5)
    assert steering.presence_of == "replaces" and steering.reads == {"encoder"} and steering.push(x) is None
    assert Steering(small_sae("relu"), ECHOING, echo, 0.0, "raw", HEARD).changes_nothing
    with pytest.raises(ValueError, match=r"^replaces: 'echo' needs the features to take out"):
        Steering(small_sae("relu"), ECHOING, echo)
    with pytest.raises(
        ValueError, match=r"^replaces: 'add' takes no features out; use swap or replace or echo, or disconnect them\.$"
    ):
        Steering(small_sae("relu"), ECHOING, "add", replaces=HEARD)
    with pytest.raises(ValueError, match=r"feature 3 is named twice, which 'echo' cannot follow"):
        Steering(small_sae("relu"), [Edit(3), Edit(3)], echo, replaces=HEARD)


def test_a_made_up_method_is_kept_in_recipes(echo: str) -> None:
    needed = NeededSae("ab" * 32)
    recipe = Recipe(tuple(ECHOING), needed, "transformer_blocks.1", "image", echo, replaces=tuple(HEARD))
    text = write_recipe(recipe)
    assert json.loads(text)["method"] == "echo" and read_recipe(text) == recipe


def test_an_unknown_method_is_refused_with_all_that_are_known(echo: str) -> None:
    with pytest.raises(ValueError, match=r"use one of .*, replace, echo\.$"):
        Steering(small_sae("relu"), ECHOING, "sing")
    with pytest.raises(ValueError, match=r"^here: calibration with 'sing' came; a known method is needed, .* echo\.$"):
        read_calibration({"method": "sing", "low": 0.1, "clear": 0.2, "high": 0.3}, "here")
    with pytest.raises(ValueError, match=r"known method"):
        read_calibration({"method": ["echo"], "low": 0.1, "clear": 0.2, "high": 0.3}, "here")


def test_a_made_up_method_acts_in_a_set_and_in_a_sweep(echo: str, x: Tensor) -> None:
    members = [small_sae("relu", site=site) for site in PLACES]
    sae = SaeSet(members, "three")
    wanted = Wanted([Edit(3, 0.25), Edit(40 + 7, 0.5)], echo, 1.0, "raw", [HEARD[0]])
    planned = wanted.at(sae, sae.members)
    assert [str(item.site) for item in planned.interventions] == [str(PLACES[0])]  # the one with both lists
    assert planned.lines == (f"Left out: {PLACES[1]} has features to put in, but none to take out.",)
    both = Wanted([Edit(3, 0.25), Edit(40 + 7, 0.5)], echo, 1.0, "raw", [HEARD[0], Edit(40 + 5)])
    steerings = [item.steering for item in both.at(sae, sae.members).interventions]
    assert [steering.strengths for steering in steerings] == [[0.25**0.5], [0.5**0.5]]  # each edit's own, by its rule
    f, d = dense_codes("relu", x), dense_directions("relu")
    torch.testing.assert_close(steerings[1].delta(x), 0.5**0.5 * f[..., 5:6] * d[7], rtol=2e-5, atol=2e-5)
    rows = rows_of(sae, [sae.members], wanted)
    assert [[edit.feature for edit in row.wanted.features] for row in rows] == [[3]]
    assert rows[0].at(0.5)[0].steering.method == "echo"
    assert spread(0.125, echo, PLACES[0], PLACES) == pytest.approx(0.5)


def test_a_made_up_method_is_calibrated_from_its_own_strength(echo: str) -> None:
    tried: list[float] = []

    def measure(strength: float) -> Reading:
        tried.append(strength)
        return Reading(min(strength, 2.0), 0.0, 0.0)

    found = calibrate(echo, measure)
    assert calibrated_methods()[-1] == echo and tried[0] == 0.125
    assert found is not None and found.method == echo and found.low <= found.clear <= found.high
    assert alone(small_sae("relu"), PLACES[0], echo, HEARD)(Edit(3), 0.5).steering.strengths == [0.5]
    measured = Measured(3, Calibration(echo, 0.1, 0.2, 0.3), Setting("a", "b", "c"))
    assert measured.may_fit(Setting("a", "b", "c")) and not measured.may_fit(Setting("a", "b", "d"))


def test_a_method_is_gone_with_its_file() -> None:
    with made_up_method(methods):
        assert list(METHODS) == [*NAMES, "echo"]
    assert list(METHODS) == NAMES and not hasattr(methods, "echo")
