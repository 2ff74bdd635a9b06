"""The panel of sliders as a user has it: add, turn, name, reorder, run, save, reload; undo, copies, subgraphs."""

import json

import numpy as np
import pytest

from sae.demo.shipped_weights import TEXT_SAE, load_sae
from sae.dictionary.fingerprint import fingerprint
from sae.known.labels import shipped_labels

PANEL = ".sae-steering-mixer"


@pytest.fixture
def filled(comfy):
    """A graph that has run once, with the two strongest features of blue in the panel."""
    comfy.build()
    comfy.plain = comfy.run()
    comfy.take(0)
    comfy.take(1)
    return comfy


def test_add_turn_name_reorder_run_save_reload(filled):
    comfy, page = filled, filled.page
    first, second = (row["feature"] for row in comfy.mix())
    comfy.slide(0, 0.8)
    name = comfy.row(1).locator(".sae-steering-name")
    name.fill("sky <img src=x onerror=window.hacked=1>")
    name.press("Enter")
    page.wait_for_timeout(600)
    page.locator(f"{PANEL} .sae-steering-handle").nth(0).focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(300)
    rows = comfy.mix()
    assert [row["feature"] for row in rows] == [second, first]
    assert rows[1]["strength"] == pytest.approx(0.8)
    assert {row["unit"] for row in rows} == {"auto"}
    picture = comfy.run()
    assert np.abs(picture.astype(int) - comfy.plain).max() > 40
    saved = comfy.save()
    comfy.open()
    comfy.load(saved)
    assert comfy.mix() == rows
    assert comfy.features() == [second, first]
    assert np.array_equal(comfy.run(), picture)
    assert comfy.row(0).locator(".sae-steering-name").input_value() == "sky <img src=x onerror=window.hacked=1>"
    # a picture that core saved carries everything: dropped onto the canvas, it is loaded like this
    comfy.load(comfy.workflow_in_picture)
    assert comfy.mix() == rows
    page.wait_for_timeout(500)
    # the name is kept for the SAE: the table has it too, as text
    page.wait_for_timeout(500)
    assert "sky <img src=x" in page.locator(".sae-steering-table").inner_text()
    assert page.evaluate("() => window.hacked === undefined && !document.querySelector('img[src=x]')")


def test_a_feature_is_found_by_name_and_by_number(filled):
    comfy, page = filled, filled.page
    field = page.locator(f"{PANEL} .sae-steering-add")
    field.fill("triangle")
    page.wait_for_selector(f"{PANEL} [role=option]")
    options = page.locator(f"{PANEL} [role=option]").all_inner_texts()
    assert all("triangle" in text.lower() for text in options[:3])
    field.press("ArrowDown")
    field.press("Enter")
    page.wait_for_timeout(500)
    assert str(comfy.features()[-1]) in options[1]
    field.fill("200")
    page.wait_for_timeout(500)
    field.press("Enter")
    page.wait_for_timeout(500)
    assert comfy.features()[-1] == 200
    assert comfy.mix()[-1]["max"] > 0  # its range comes from the SAE's statistics
    field.fill("99999")
    page.wait_for_selector("text=This SAE has the features 0 to 255.")
    assert len(comfy.features()) == 4


def test_rows_are_dragged_switched_off_and_removed(filled):
    comfy, page = filled, filled.page
    comfy.take(2)
    before = comfy.features()
    handle = page.locator(f"{PANEL} .sae-steering-handle")
    start, end = handle.nth(2).bounding_box(), handle.nth(0).bounding_box()
    page.mouse.move(start["x"] + 4, start["y"] + 6)
    page.mouse.down()
    page.mouse.move(end["x"] + 4, end["y"] + 14, steps=4)
    page.mouse.move(end["x"] + 4, end["y"] - 2, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert comfy.features() == [before[2], before[0], before[1]]
    comfy.row(1).locator("input[type=checkbox]").uncheck()
    comfy.row(0).locator(".sae-steering-remove").click()
    page.wait_for_timeout(300)
    assert [(row["feature"], row["on"]) for row in comfy.mix()] == [(before[0], False), (before[1], True)]
    comfy.row(1).locator("input[type=checkbox]").uncheck()
    assert np.array_equal(comfy.run(), comfy.plain)  # all off: nothing is steered


def test_undo_and_redo_follow_each_change(filled):
    comfy, page = filled, filled.page
    first, second = comfy.features()
    begun, slid = ([[first, strength, True], [second, 1, True]] for strength in (1, 0.7))
    comfy.slide(0, 0.7)
    comfy.see(slid)
    comfy.row(1).locator(".sae-steering-remove").click()
    comfy.see(slid[:1])
    comfy.deselect()
    for keys, wanted in (("z", slid), ("z", begun), ("y", slid)):
        page.keyboard.press(f"Control+{keys}")
        comfy.see(wanted)


def test_a_copy_has_the_values_and_then_its_own(filled):
    comfy, page = filled, filled.page
    comfy.slide(0, 0.6)
    page.evaluate(
        "() => { const node = app.graph.nodes.find((n) => n.comfyClass === 'FeatureMixer');"
        " app.canvas.deselectAll(); app.canvas.select(node); app.canvas.copyToClipboard();"
        " app.canvas.pasteFromClipboard(); }"
    )
    page.wait_for_timeout(900)
    values = "() => app.graph.nodes.filter((n) => n.comfyClass === 'FeatureMixer').map((n) => n.widgets[0].value)"
    one, other = page.evaluate(values)
    assert json.loads(one) == json.loads(other)
    assert page.locator(PANEL).count() == 2
    comfy.slide(0, 0.2)
    one, other = (json.loads(value)["rows"][0]["strength"] for value in page.evaluate(values))
    assert {one, other} == {0.2, 0.6}


def test_inside_a_subgraph(filled):
    comfy, page = filled, filled.page
    steered = comfy.run()
    page.evaluate(
        "() => { const inside = app.graph.nodes.filter((n) => ['FeatureMixer', 'FluxActivationSteer',"
        " 'TopActivatingFeatures'].includes(n.comfyClass)); app.graph.convertToSubgraph(new Set(inside)); }"
    )
    page.wait_for_timeout(1200)
    assert np.array_equal(comfy.run(), steered)
    page.evaluate("() => app.canvas.openSubgraph(app.graph.nodes.find((n) => n.subgraph).subgraph)")
    page.wait_for_timeout(1500)
    assert page.locator(f"{PANEL} .sae-steering-row").count() == 2
    comfy.take(3)  # a table and a panel in there find each other
    assert page.locator(f"{PANEL} .sae-steering-row").count() == 3
    # the SAE comes from outside, through the subgraph's input
    page.locator(f"{PANEL} .sae-steering-add").fill("green")
    page.wait_for_selector(f"{PANEL} [role=option]")
    page.keyboard.press("Escape")
    changed = comfy.run()
    assert not np.array_equal(changed, steered)
    saved = comfy.save()
    comfy.open()
    comfy.load(saved)
    assert np.array_equal(comfy.run(), changed)


def test_a_value_that_is_no_list_is_left_alone_until_something_is_added(comfy):
    comfy.build()
    value = "() => app.graph.nodes.find((n) => n.comfyClass === 'FeatureMixer').widgets[0].value"
    comfy.page.evaluate(
        "() => { app.graph.nodes.find((n) => n.comfyClass === 'FeatureMixer').widgets[0].value = '{oops'; }"
    )
    assert comfy.page.evaluate(value) == "{oops"
    assert "no list of features" in comfy.page.locator(PANEL).inner_text()


def test_all_rows_of_a_long_panel_have_their_names(comfy):
    """The server tells of 200 features at a time."""
    comfy.build()
    sae = load_sae(TEXT_SAE)
    named = shipped_labels(sae).read(fingerprint(sae))
    last = max(named)
    features = [k for k in range(251) if k != last][:250]
    features.append(last)
    mix = json.dumps({"rows": [{"feature": k, "strength": 0, "on": True} for k in features]})
    comfy.page.evaluate(
        "(mix) => { app.graph.nodes.find((n) => n.comfyClass === 'FeatureMixer').widgets[0].value = mix; }", mix
    )
    seen = f"(name) => document.querySelectorAll('{PANEL} .sae-steering-name')[250]?.value === name"
    comfy.page.wait_for_function(seen, arg=named[last].name)


def test_a_calibrated_feature_gets_its_own_range(filled, server):
    comfy, page = filled, filled.page
    mark = page.evaluate("() => document.querySelector('.sae-steering-table').dataset.fingerprint")
    kept = server.place.base / "user" / "default" / "sae_steering" / "labels" / f"{mark}.calibration.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    ranges = {"add": {"101": {"low": 0.05, "clear": 0.2, "high": 0.5}}}
    head = {"format": "sae-steering calibration", "version": 1, "fingerprint": mark}
    kept.write_text(json.dumps({**head, "methods": ranges}), encoding="utf-8")
    field = page.locator(f"{PANEL} .sae-steering-add")
    field.fill("101")
    page.wait_for_selector(f"{PANEL} [role=option]")
    field.press("Enter")
    page.wait_for_timeout(500)
    row = comfy.mix()[-1]
    assert (row["feature"], row["unit"], row["strength"]) == (101, "calibrated", 1)
    assert row["calibration"] == {"method": "add", "low": 0.05, "clear": 0.2, "high": 0.5}
    assert "Feature 101: calibrated by version 0.1" in page.locator(f"{PANEL} .sae-steering-message").inner_text()
    slider = comfy.row(2).locator(".sae-steering-slider")
    assert float(slider.get_attribute("max")) == pytest.approx(2.5)
    for at in (0, 1):
        comfy.row(at).locator("input[type=checkbox]").uncheck()
    comfy.run()
    # 1 × clear is 0.2 of the token's norm
    assert "mean ‖Δ‖/‖x‖ 0.2, at one token up to 0.2" in page.locator(".sae-steering-report").inner_text()
    # the graph has steered, so its model is known: a range of another one is not offered
    entry = {"feature": 102, "method": "add", "low": 0.05, "clear": 0.2, "high": 0.5, "model": "Flux-0123456789abcdef"}
    kept.write_text(json.dumps({**head, "version": 2, "calibrations": [entry]}), encoding="utf-8")
    field.fill("102")
    page.wait_for_selector(f"{PANEL} [role=option]")
    field.press("Enter")
    page.wait_for_timeout(500)
    row = comfy.mix()[-1]
    assert (row["feature"], row["unit"], "calibration" in row) == (102, "auto", False)


WIRE_OTHER_SAE = """
() => {
  const find = (type) => app.graph.nodes.find((node) => node.comfyClass === type);
  const [demo, mixer] = [find("LoadShapesDemo"), find("FeatureMixer")];
  demo.connect(demo.outputs.findIndex((slot) => slot.name === "sae_attention"), mixer, 0);
}
"""


def test_a_name_given_after_the_sae_was_changed_is_not_the_old_ones(filled):
    """Rows of A, then B is wired: what the user types names no feature of A, and the row says whose it is."""
    comfy, page = filled, filled.page
    feature = comfy.features()[0]
    first = comfy.mix()[0]["owner"]
    assert first["name"] == "shapes-transformer_blocks.0-text"
    before = comfy.names("sae_text", feature)
    page.evaluate(WIRE_OTHER_SAE)
    name = comfy.row(0).locator(".sae-steering-name")
    name.fill("a name for B")
    name.press("Enter")
    page.wait_for_selector(f"{PANEL} .sae-steering-foreign")
    told = page.locator(f"{PANEL} [role=status]").last.inner_text()
    assert "stays in this panel only" in told
    assert "shapes-transformer_blocks.0-text" in told and "shapes-transformer_blocks.1.attn-image" in told
    assert comfy.names("sae_text", feature) == before
    assert comfy.names("sae_attention", feature) != "a name for B"
