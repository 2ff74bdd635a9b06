"""What is typed and pressed in the panel is what runs: commit with each key, no press lost, Escape, Tab, Delete."""

import json

import pytest

PANEL = ".sae-steering-mixer"
SENT = """
() => {
  window.sent = [];
  const before = app.api.queuePrompt;
  app.api.queuePrompt = (number, prompt, ...more) => {
    const mixer = Object.values(prompt.output).find((node) => node.class_type === "FeatureMixer");
    window.sent.push(JSON.parse(mixer.inputs.mix));
    return before.call(app.api, number, prompt, ...more);
  };
}
"""
FOCUSED = "() => `${document.activeElement.className} ${document.activeElement.closest('li')?.dataset.at}`"
SELECT = "() => app.canvas.select(app.graph.nodes.find((n) => n.comfyClass === 'FeatureMixer'))"


@pytest.fixture
def rows(comfy):
    """Two rows of the demo's SAE, without a run: {feature: strength}."""
    comfy.build()
    mix = {"rows": [{"feature": 226, "strength": 0.2, "unit": "max", "max": 2.0}, {"feature": 5, "unit": "auto"}]}
    comfy.page.evaluate(
        "(text) => { app.graph.nodes.find((n) => n.comfyClass === 'FeatureMixer').widgets[0].value = text; }",
        json.dumps(mix),
    )
    comfy.page.wait_for_timeout(700)  # for what the server knows of them
    return comfy


def part(comfy, at, name):
    return comfy.row(at).locator(f".sae-steering-{name}" if name != "box" else "[type=checkbox]")


def type_into(field, text):
    field.click()
    field.page.keyboard.press("Control+a")
    field.page.keyboard.type(text)


def strengths(comfy):
    return [row.get("strength", 1) for row in comfy.mix()]


def test_a_run_takes_the_number_that_is_on_the_screen(rows):
    comfy, page = rows, rows.page
    page.evaluate(SENT)
    type_into(part(comfy, 0, "number"), "0.4")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => window.sent.length === 1")
    assert page.evaluate("() => window.sent[0].rows[0].strength") == 0.4
    everything = page.locator(f"{PANEL} .sae-steering-tools .sae-steering-number")
    type_into(everything, "0.5")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => window.sent.length === 2")
    assert page.evaluate("() => window.sent[1].strength") == 0.5
    assert everything.input_value() == "0.5"
    assert part(comfy, 0, "number").input_value() == "0.4"
    assert comfy.page.evaluate("() => window.sent[1].rows[0].strength") == 0.4


@pytest.mark.parametrize("typed", ["number", "name"])
def test_no_press_is_lost_after_typing(rows, typed, server):
    comfy, page = rows, rows.page
    text = {"number": "0.3", "name": "typed before a press"}[typed]
    for what in ("slider", "solo", "box", "remove"):
        type_into(part(comfy, 0, typed), text)
        if what == "slider":
            comfy.drag(1, 1.0)
            page.wait_for_timeout(200)
            assert strengths(comfy)[1] == 2
        else:
            part(comfy, 1, what).click()
        if what == "solo":
            assert part(comfy, 1, "solo").get_attribute("aria-pressed") == "true"
            part(comfy, 1, "solo").click()
        if what == "box":
            assert comfy.mix()[1]["on"] is False
        if typed == "number":
            assert strengths(comfy)[0] == 0.3
            type_into(part(comfy, 0, "number"), "0.1")  # another one for the next turn
            page.keyboard.press("Enter")
        else:
            page.wait_for_timeout(400)
            assert comfy.names("sae_text", 226) == text
            type_into(part(comfy, 0, "name"), "between")
            page.keyboard.press("Enter")
            page.wait_for_timeout(400)
    assert [row["feature"] for row in comfy.mix()] == [226]


def test_the_keyboard_goes_on_from_where_it_was(rows):
    comfy, page = rows, rows.page
    type_into(part(comfy, 0, "number"), "0.3")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "sae-steering-unit 0"
    page.wait_for_timeout(300)
    assert page.evaluate(FOCUSED) == "sae-steering-unit 0"
    part(comfy, 0, "name").focus()
    page.keyboard.type("x")
    page.keyboard.press("Tab")
    page.wait_for_timeout(500)
    assert page.evaluate(FOCUSED) == "sae-steering-slider 0"
    part(comfy, 0, "remove").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert comfy.features() == [5]
    assert page.evaluate(FOCUSED) == "sae-steering-remove 0"  # of the row that has come there


@pytest.mark.parametrize("way", ["Enter", "Tab", "click"])
def test_a_new_name_is_shown_at_once_and_is_no_step_of_undo(rows, way):
    comfy, page = rows, rows.page
    comfy.mix()  # a prompt puts the nodes into an order, which core would count as a step of undo
    part(comfy, 1, "box").uncheck()
    type_into(part(comfy, 0, "name"), "a new name")
    if way == "click":
        page.locator(f"{PANEL} .sae-steering-meaning").click()
    else:
        page.keyboard.press(way)
    page.wait_for_selector(f"{PANEL} .sae-steering-message:has-text('Feature 226 is called “a new name”.')")
    assert part(comfy, 0, "name").input_value() == "a new name"
    assert comfy.names("sae_text", 226) == "a new name"
    comfy.deselect()
    page.mouse.move(5, 500)
    part(comfy, 0, "index").hover()
    page.wait_for_selector(".sae-steering-card:popover-open:has-text('a new name')")
    comfy.deselect()
    page.keyboard.press("Control+z")  # takes back what was seen to change: the box
    page.wait_for_function(f"() => document.querySelectorAll('{PANEL} li [type=checkbox]')[1]?.checked")
    page.wait_for_function(f"() => document.querySelector('{PANEL} .sae-steering-name').value === 'a new name'")


def test_escape_drops_what_was_typed(rows):
    comfy, page = rows, rows.page
    name = part(comfy, 0, "name")
    before = name.input_value()
    type_into(name, "never mind")
    page.keyboard.press("Escape")
    assert name.input_value() == before
    page.keyboard.press("Tab")
    page.wait_for_timeout(400)
    assert comfy.names("sae_text", 226) != "never mind"
    type_into(part(comfy, 0, "number"), "0.9")
    assert strengths(comfy)[0] == 0.9
    page.keyboard.press("Escape")
    assert part(comfy, 0, "number").input_value() == "0.2"
    assert strengths(comfy)[0] == 0.2


@pytest.mark.parametrize("what", ["handle", "solo", "remove", "unit", "slider", "box"])
def test_delete_in_the_panel_leaves_the_node(rows, what):
    comfy, page = rows, rows.page
    page.evaluate(SELECT)
    part(comfy, 0, what).focus()
    for key in ("Delete", "Backspace"):
        page.keyboard.press(key)
        page.wait_for_timeout(150)
        assert page.evaluate("() => app.graph.nodes.some((n) => n.comfyClass === 'FeatureMixer')")
        if what != "handle":
            assert comfy.features() == [226, 5]
    assert comfy.features() == ([] if what == "handle" else [226, 5])


def test_reset_goes_back_to_what_the_rows_began_with(rows):
    comfy, page = rows, rows.page
    comfy.slide(0, 1.5)
    comfy.slide(0, 1.2)
    type_into(part(comfy, 1, "number"), "0.3")
    page.keyboard.press("Enter")
    assert strengths(comfy) == [1.2, 0.3]
    saved = comfy.save()
    comfy.load(saved)  # what they began with is in the workflow
    page.locator(f"{PANEL} .sae-steering-reset").click()
    assert strengths(comfy) == [0.2, 1]
    assert [part(comfy, at, "number").input_value() for at in (0, 1)] == ["0.2", "1"]
    page.locator(f"{PANEL} .sae-steering-reset").click()
    assert strengths(comfy) == [0.2, 1]
