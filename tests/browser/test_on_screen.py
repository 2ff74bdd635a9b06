"""What is on the screen is the value, for panels and results: after undo, redo, reload, in tabs, copies, subgraphs."""

import pytest

MIXER = "app.canvas.graph.nodes.find((n) => n.comfyClass === 'FeatureMixer')"


@pytest.fixture
def filled(comfy):
    """A graph that has run with three features in the panel."""
    comfy.build()
    comfy.run()
    for rank in range(3):
        comfy.take(rank)
    comfy.rows = [[feature, 1, True] for feature in comfy.features()]
    comfy.see(comfy.rows)
    return comfy


def test_undo_and_redo_leave_the_panel_connected(filled):
    comfy, page, rows = filled, filled.page, filled.rows
    comfy.row(1).locator(".sae-steering-remove").click()
    comfy.see([rows[0], rows[2]])
    page.keyboard.press("Control+z")
    comfy.see(rows)
    page.keyboard.press("Control+y")
    comfy.see([rows[0], rows[2]])
    page.keyboard.press("Control+z")
    comfy.see(rows)
    # the panel that is seen is the one that counts
    comfy.row(0).locator("input[type=checkbox]").uncheck()
    comfy.see([[rows[0][0], 1, False], rows[1], rows[2]])
    comfy.drag(2, 1.0)
    comfy.see([[rows[0][0], 1, False], rows[1], [rows[2][0], 2, True]])
    assert [(row["on"], row["strength"]) for row in comfy.mix()] == [(False, 1), (True, 1), (True, 2)]


def test_undo_follows_a_drag_at_once(filled):
    """No click on the canvas is needed first: a slider lets go of the keyboard when the mouse lets go of it."""
    comfy, rows = filled, filled.rows
    comfy.drag(0, 1.0)
    comfy.see([[rows[0][0], 2, True], *rows[1:]])
    comfy.page.keyboard.press("Control+z")
    comfy.see(rows)


def test_undo_follows_the_keyboard_on_a_slider(filled):
    comfy, page, rows = filled, filled.page, filled.rows
    comfy.row(0).locator("input[type=checkbox]").focus()
    page.keyboard.press("Space")
    comfy.see([[rows[0][0], 1, False], *rows[1:]])
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    changed = [[rows[0][0], 2, False], *rows[1:]]
    comfy.see(changed)
    page.keyboard.press("Control+z")
    comfy.see([[rows[0][0], 1, False], *rows[1:]])
    comfy.row(0).locator(".sae-steering-slider").focus()
    page.keyboard.press("Control+Shift+z")
    comfy.see(changed)


def test_results_survive_undo_on_the_screen(filled):
    comfy, page, rows = filled, filled.page, filled.rows
    comfy.run()
    table, report = comfy.result("TopActivatingFeatures"), comfy.result("FluxActivationSteer")
    assert f"{rows[0][0]}" in table
    assert "Steered 4 steps" in report
    comfy.row(1).locator(".sae-steering-remove").click()
    comfy.see([rows[0], rows[2]])
    for key in ("z", "y", "z"):
        page.keyboard.press(f"Control+{key}")
        comfy.see(rows if key == "z" else [rows[0], rows[2]])
        assert comfy.result("TopActivatingFeatures") == table
        assert comfy.result("FluxActivationSteer") == report


def test_tabs_of_workflows_keep_their_panels(filled):
    comfy, page, rows = filled, filled.page, filled.rows
    table = comfy.result("TopActivatingFeatures")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    page.locator(".workflow-tabs .p-togglebutton, .workflow-tabs [role=tab]").nth(-2).click()
    page.wait_for_function(f"() => Boolean({MIXER})")
    comfy.see(rows)
    assert comfy.result("TopActivatingFeatures").strip() == table.strip()
    comfy.drag(0, 1.0)
    comfy.see([[rows[0][0], 2, True], *rows[1:]])


def test_reload_copy_and_subgraph(filled):
    comfy, page, rows = filled, filled.page, filled.rows
    saved = comfy.save()
    comfy.open()
    comfy.load(saved)
    comfy.see(rows)
    page.evaluate(
        f"() => {{ const node = {MIXER}; app.canvas.deselectAll(); app.canvas.select(node);"
        " app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard(); app.graph.remove(node); }"
    )
    page.evaluate(f"() => {{ {MIXER}.pos = [920, 60]; app.canvas.setDirty(true, true); }}")
    comfy.see(rows)  # now the copy's
    comfy.drag(0, 1.0)
    changed = [[rows[0][0], 2, True], *rows[1:]]
    comfy.see(changed)
    page.evaluate(f"() => {{ app.graph.convertToSubgraph(new Set([{MIXER}])); }}")
    page.wait_for_function("() => app.graph.nodes.some((n) => n.subgraph)")
    page.evaluate("() => app.canvas.openSubgraph(app.graph.nodes.find((n) => n.subgraph).subgraph)")
    page.wait_for_function(f"() => Boolean({MIXER})")
    comfy.see(changed)
    comfy.row(1).locator(".sae-steering-remove").click()
    comfy.see([changed[0], changed[2]])
    page.keyboard.press("Control+z")
    comfy.see(changed)
