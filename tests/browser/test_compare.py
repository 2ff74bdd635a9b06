"""Before and After and Paint a Region as a user has them: ways, batches, strokes, undo, reload, a small zoom."""

import json

import numpy as np
import pytest

from workflows import workflow_files

FILES = {path.stem: path for path in workflow_files()}
COMPARE = ".sae-steering-compare"
PAINT = ".sae-steering-painter"
LOADED = f"() => [...document.querySelectorAll('{COMPARE} img')].every((one) => one.naturalWidth === 128)"
CLIP = f"() => getComputedStyle(document.querySelectorAll('{COMPARE} img')[1]).clipPath"
STROKES = "() => JSON.parse(app.graph.nodes.find((n) => n.comfyClass === 'PaintRegion').widgets[0].value).strokes"


@pytest.fixture
def started(comfy):
    comfy.page.set_viewport_size({"width": 1366, "height": 768})
    comfy.load(FILES["Start here"].read_text(encoding="utf-8"))
    comfy.fit()
    comfy.entry = comfy.finish()
    comfy.page.wait_for_function(LOADED)
    return comfy


def test_three_ways_to_compare_and_batches(started):
    comfy, page = started, started.page
    stage = page.locator(f"{COMPARE} .sae-steering-over").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] * 0.25, stage["y"] + stage["height"] / 2)
    page.wait_for_function(f"() => Math.abs(parseFloat(({CLIP})().split(' ').at(-1)) - 25) < 2")
    page.locator(f"{COMPARE} .sae-steering-line").focus()
    page.keyboard.press("End")
    assert page.evaluate(CLIP).endswith("100%)")
    shown = "() => [...document.querySelectorAll('.sae-steering-compare img')]"
    shown += ".map((one) => new URL(one.src).searchParams.get('filename'))"
    number = next(str(node["id"]) for node in json.loads(comfy.save())["nodes"] if node["type"] == "BeforeAndAfter")
    files = comfy.entry["outputs"][number]
    for at in (0, 1, 2, 3, 0):
        assert page.evaluate(shown) == [files[side][at]["filename"] for side in ("before", "after")]
        page.locator(f"{COMPARE} [title='The next pair']").click()
    page.locator(f"{COMPARE} [data-way=beside]").click()
    boxes = [page.locator(f"{COMPARE} .sae-steering-frame").nth(at).bounding_box() for at in (0, 1)]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] + 1
    page.locator(f"{COMPARE} [data-way=hold]").click()
    seen = "() => getComputedStyle(document.querySelectorAll('.sae-steering-compare img')[1]).visibility"
    assert page.evaluate(seen) == "visible"
    box = page.locator(f"{COMPARE} .sae-steering-stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    assert page.evaluate(seen) == "hidden"
    page.mouse.up()
    assert page.evaluate(seen) == "visible"
    saved = comfy.save()  # the way is kept with the workflow, the pictures come from the history
    comfy.open()
    comfy.load(saved)
    page.wait_for_function(LOADED)
    assert page.locator(f"{COMPARE} [data-way=hold]").get_attribute("aria-checked") == "true"


def test_another_opening_of_the_example_shows_nothing_of_other_texts(started):
    """Results belong to what made them: templates share the id of their graph."""
    comfy, page = started, started.page
    example = FILES["Start here"].read_text(encoding="utf-8")
    own = json.loads(comfy.save())
    texts = next(node for node in own["nodes"] if node["type"] == "ConceptSteer")["widgets_values"]
    texts[:2] = ["green cross", "red cross"]
    comfy.load(json.dumps(own))
    assert page.locator(f"{COMPARE} img").count() == 0
    comfy.finish()
    assert "Wanted: green cross" in comfy.result("ConceptSteer")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    comfy.load(example)
    assert "Wanted: blue square" in comfy.result("ConceptSteer")  # of the first run, whose inputs these are
    changed = json.loads(example)
    next(node for node in changed["nodes"] if node["type"] == "ConceptSteer")["widgets_values"][0] = "purple square"
    comfy.load(json.dumps(changed))
    page.wait_for_timeout(500)
    assert page.locator(".sae-steering-table").count() == 0
    page.locator(".workflow-tabs .p-togglebutton, .workflow-tabs [role=tab]").nth(0).click()
    page.wait_for_timeout(1500)
    shown = page.evaluate("() => app.graph.nodes.find((n) => n.comfyClass === 'ConceptSteer')?.widgets[0].value")
    assert shown is None or shown in comfy.result("ConceptSteer")


def test_painting_is_the_mask_with_undo_and_reload(comfy):
    page = comfy.page
    comfy.load(FILES["Paint a feature"].read_text(encoding="utf-8"))
    comfy.fit()
    comfy.finish()
    page.wait_for_function(f"() => document.querySelector('{PAINT} img')?.naturalWidth === 128")
    comfy.page.wait_for_selector("text=The mask is empty, so nothing is steered")
    box = page.locator(f"{PAINT} canvas").bounding_box()
    for part in (0.7, 0.9):
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] * 0.1)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] * 0.9, steps=5)
        page.mouse.up()
    strokes = page.evaluate(STROKES)
    assert len(strokes) == 2
    assert strokes[0]["points"][:2] == pytest.approx([0.7, 0.1], abs=0.02)
    ink = f"(at) => {{ const c = document.querySelector('{PAINT} canvas'); return c.getContext('2d')"
    ink += ".getImageData(c.width * at, c.height / 2, 1, 1).data[3]; }"
    assert [page.evaluate(ink, at) > 0 for at in (0.2, 0.7, 0.9)] == [False, True, True]
    comfy.deselect()
    page.keyboard.press("Control+z")
    page.wait_for_function(f"() => ({STROKES})().length === 1")
    page.wait_for_timeout(500)
    page.keyboard.press("Control+y")
    page.wait_for_function(f"() => ({STROKES})().length === 2")
    page.wait_for_function(f"() => document.querySelector('{PAINT} img')?.naturalWidth === 128")
    entry = comfy.finish()
    number = next(str(node["id"]) for node in json.loads(comfy.save())["nodes"] if node["type"] == "BeforeAndAfter")
    before, after = (comfy.picture(entry["outputs"][number][side][0]).numpy() for side in ("before", "after"))
    moved = np.abs(after - before).mean((0, 1))
    assert moved[80:].mean() > 3 * moved[:40].mean()
    saved = comfy.save()
    comfy.open()
    comfy.load(saved)
    assert len(page.evaluate(STROKES)) == 2
    page.wait_for_function(f"() => ({ink})(0.9) > 0")


def test_panels_and_texts_stay_readable_when_the_canvas_is_small(started):
    page = started.page
    page.evaluate("() => { app.canvas.ds.scale = 0.45; app.canvas.setDirty(true, true); }")
    page.wait_for_timeout(500)
    for what in (COMPARE, ".sae-steering-table"):
        assert page.locator(what).first.is_visible()
    texts = "() => app.graph.nodes.find((n) => n.comfyClass === 'ConceptSteer').widgets.slice(0, 2)"
    texts += ".map(({ element }) => element && [getComputedStyle(element).backgroundImage, element.checkVisibility()])"
    if not page.evaluate("() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled')"):
        found = page.evaluate(texts)
        assert [visible for _, visible in found] == [True, True]
        assert ["wanted" in found[0][0], "instead_of" in found[1][0]] == [True, True]


def test_tables_fit_their_panel(started):
    page = started.page
    inside = "(result) => [...result.querySelectorAll('td, th')].filter((cell) => cell.checkVisibility()"
    inside += " && cell.getBoundingClientRect().right > result.getBoundingClientRect().right + 1).length"
    assert page.locator(".sae-steering-result").first.evaluate(inside) == 0
    heights = page.locator(".sae-steering-table tbody tr").evaluate_all("(rows) => rows.map((row) => row.offsetHeight)")
    assert len(heights) == 7 and max(heights) <= 34  # pictures in one line
    names = page.locator(".sae-steering-table .sae-steering-called").all_inner_texts()
    assert names.count("unclear") == 0
