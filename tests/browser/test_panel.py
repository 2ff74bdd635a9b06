"""The panel's controls for all rows, its sentences, its two layouts, and what core's own panel does to it."""

import json

import numpy as np
import pytest

from project_files import ROOT

PANEL = ".sae-steering-mixer"
MIXER = "app.graph.nodes.find((n) => n.comfyClass === 'FeatureMixer')"
STEER = "app.graph.nodes.find((n) => n.comfyClass === 'FluxActivationSteer')"

TITLE = """
(type) => {
  const { pos } = app.graph.nodes.find((node) => node.comfyClass === type);
  const { left, top } = app.canvas.canvas.getBoundingClientRect();
  const { scale, offset } = app.canvas.ds;
  return [left + (pos[0] + 90 + offset[0]) * scale, top + (pos[1] - 15 + offset[1]) * scale];
}
"""


@pytest.fixture
def filled(comfy):
    """A graph that has run once without steering, with two features in the panel."""
    comfy.build()
    comfy.plain = comfy.run()
    comfy.take(0)
    comfy.take(1)
    comfy.rows = [[feature, 1, True] for feature in comfy.features()]
    return comfy


def test_all_rows_at_once(filled):
    comfy, rows = filled, filled.rows
    tools = comfy.page.locator(".sae-steering-tools")
    tools.locator("[type=checkbox]").uncheck()
    comfy.see([[feature, 1, False] for feature, *_ in rows])
    comfy.row(1).locator("[type=checkbox]").check()
    assert tools.locator("[type=checkbox]").evaluate("(box) => box.indeterminate")
    comfy.row(0).locator(".sae-steering-solo").click()
    assert [row.get("solo", False) for row in comfy.mix()] == [True, False]
    off = comfy.page.locator(f"{PANEL} .sae-steering-off .sae-steering-index").all_inner_texts()
    assert off == [str(rows[1][0])]  # on, but another one is on solo
    tools.locator(".sae-steering-number").fill("0")
    tools.locator(".sae-steering-number").press("Enter")
    assert np.array_equal(comfy.run(), comfy.plain)  # strength 0 of all
    tools.locator(".sae-steering-reset").click()
    comfy.see(rows)
    assert tools.locator(".sae-steering-number").input_value() == "1"
    assert [row.get("solo") for row in comfy.mix()] == [None, None]
    assert not np.array_equal(comfy.run(), comfy.plain)


def test_the_panel_says_what_a_strength_does(filled):
    page = filled.page
    meaning = page.locator(".sae-steering-meaning")
    assert meaning.inner_text().startswith("add: 0 changes nothing")
    set_value = (
        f"([name, value]) => {{ {STEER}.widgets.find((w) => w.name === name).value = value;"
        " app.canvas.emitBeforeChange(); app.canvas.emitAfterChange(); }"
    )
    page.evaluate(set_value, ["method", "scale"])
    page.wait_for_function("() => document.querySelector('.sae-steering-meaning').textContent.startsWith('scale: 1')")
    page.evaluate(set_value, ["strength", 0.2])
    page.wait_for_function("() => document.querySelector('.sae-steering-meaning').textContent.includes('all by 0.2')")


@pytest.mark.parametrize("width", [250, 360, 560])
def test_a_narrow_panel_takes_two_lines_and_cuts_nothing_off(filled, width):
    page = filled.page
    page.evaluate(
        f"() => {{ const node = {MIXER}; node.setSize([{width}, node.size[1]]); app.canvas.setDirty(true); }}"
    )
    across = "(row) => row.querySelector('.sae-steering-slider').getBoundingClientRect().top >"
    across += " row.querySelector('.sae-steering-name').getBoundingClientRect().bottom - 4"
    page.wait_for_function(
        f"(lines) => ({across})(document.querySelector('.sae-steering-row')) === (lines === 2)",
        arg=2 if width < 400 else 1,
    )
    cut = "(panel) => [...panel.querySelectorAll('.sae-steering-row > *')].filter((part) =>"
    cut += " part.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1).length"
    assert page.locator(PANEL).evaluate(cut) == 0


def test_the_properties_panel_leaves_ours_alone(filled):
    """It lists neither the panel nor the table, and core's width of a widget does not shrink them."""
    page = filled.page
    before = page.locator(PANEL).bounding_box()["width"]
    page.evaluate("() => app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', true)")
    properties = page.locator("[data-testid=properties-panel]")
    for node, title in (("FeatureMixer", "Feature Mixer"), ("TopActivatingFeatures", "Top Activating Features")):
        page.mouse.click(*page.evaluate(TITLE, node))
        properties.get_by_text(title).first.wait_for()
        text = properties.inner_text()
        assert "mix" not in text.split()
        assert "sae_steering" not in text
    page.evaluate(f"() => {{ for (const w of {MIXER}.widgets) w.width = 100; app.canvas.setDirty(true, true); }}")
    page.wait_for_timeout(500)
    assert page.locator(PANEL).bounding_box()["width"] == pytest.approx(before, abs=2)


def test_a_bypassed_panel_leaves_things_unsteered(filled):
    comfy = filled
    assert not np.array_equal(comfy.run(), comfy.plain)
    comfy.page.evaluate(f"() => {{ {MIXER}.mode = 4; }}")
    assert np.array_equal(comfy.run(), comfy.plain)
    assert "No features are connected, so nothing is steered." in comfy.result("FluxActivationSteer")


def test_a_second_run_from_the_cache_keeps_the_report(filled):
    comfy = filled
    comfy.run()
    report = comfy.result("FluxActivationSteer")
    assert "Steered 4 steps" in report
    comfy.page.evaluate(
        "() => { app.graph.nodes.find((n) => n.comfyClass === 'SaveImage').widgets[0].value = 'again'; }"
    )
    comfy.run()  # all but the saving comes from the cache
    assert comfy.result("FluxActivationSteer") == report
    saved = comfy.save()
    comfy.open()
    comfy.load(saved)
    assert comfy.result("FluxActivationSteer") == report


def test_a_long_text_scrolls(comfy):
    comfy.build()
    lines = "\n".join(f"line {number}" for number in range(400))
    comfy.page.evaluate(
        f"(text) => app.api.dispatchCustomEvent('executed',"
        f" {{ node: String({STEER}.id), output: {{ text: [text] }} }})",
        lines,
    )
    comfy.page.wait_for_selector(".sae-steering-text")
    comfy.page.wait_for_timeout(500)
    scale = comfy.page.evaluate("() => app.canvas.ds.scale")
    result = comfy.page.locator(".sae-steering-result")
    assert 200 < result.bounding_box()["height"] / scale <= 440
    assert result.evaluate("(box) => box.scrollHeight > 2000 && getComputedStyle(box).overflowY === 'auto'")


def test_a_workflow_made_when_features_were_required_keeps_its_wires(comfy):
    """The input stands behind the others since: core finds the slots of a saved node by their names."""
    example = ROOT / "example_workflows" / "Shapes - sliders for features.json"
    workflow = json.loads(example.read_text(encoding="utf-8"))
    steer = next(node for node in workflow["nodes"] if node["type"] == "FluxActivationSteer")
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    wired = {slot["name"]: links[slot["link"]] for slot in steer["inputs"] if slot["link"] is not None}
    assert {"model", "sae", "features"} <= set(wired)
    comfy.load(json.dumps(workflow))
    prompt = comfy.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert {name: prompt[str(steer["id"])]["inputs"][name] for name in wired} == wired
