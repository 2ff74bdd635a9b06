"""Tables and reports inside the nodes: what they show, that they stay, and that they are no part of the workflow."""

import json
import re

TABLE = ".sae-steering-table"
REPORT = ".sae-steering-report"

SLOW_HISTORY = """
const fast = window.fetch;
window.fetch = async (what, ...more) => {
  const slow = Number(sessionStorage.getItem("slow")) * String(what.url ?? what).includes("/history?");
  if (slow) await new Promise((done) => setTimeout(done, slow));
  return fast(what, ...more);
};
"""


def test_tables_and_reports_stay_after_a_reload(comfy):
    comfy.build()
    comfy.run()
    comfy.take(0)
    comfy.run()
    page = comfy.page
    table, report = page.locator(TABLE).inner_text(), page.locator(REPORT).inner_text()
    rows = page.locator(f"{TABLE} tbody tr").all_inner_texts()
    assert len(rows) == 5
    assert all(re.match(r"\d+\s+\d+\s", row) for row in rows)
    assert re.search(r"Steered 4 steps; mean ‖Δ‖/‖x‖ 0\.\d+", report)
    points = page.locator(f"{REPORT} polyline").get_attribute("points").split()
    assert len(points) == 4
    saved = comfy.save()
    page.add_init_script(SLOW_HISTORY)
    page.evaluate("() => sessionStorage.setItem('slow', 4000)")
    try:
        comfy.open()
        comfy.load(saved)  # while the graph that core has restored still asks for its results
        page.wait_for_selector(TABLE)
    finally:
        page.evaluate("() => sessionStorage.removeItem('slow')")
    assert page.locator(TABLE).inner_text() == table
    assert page.locator(REPORT).inner_text() == report


def test_results_are_no_part_of_the_workflow_or_the_prompt(comfy):
    comfy.build()
    before = json.loads(comfy.save())
    comfy.run()
    comfy.take(0)
    comfy.run()
    after = json.loads(comfy.save())
    values = {node["id"]: node.get("widgets_values") for node in before["nodes"]}
    for node in after["nodes"]:
        if node["type"] != "FeatureMixer":
            assert node.get("widgets_values") == values[node["id"]], node["type"]
    prompt = comfy.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert "sae_steering_result" not in json.dumps([after, prompt])


def test_thumbnails_and_a_click_without_a_panel(comfy):
    comfy.build()
    comfy.page.evaluate(
        "() => { const by = (type) => app.graph.nodes.find((n) => n.comfyClass === type);"
        " by('LoadShapesDemo').connect(4, by('TopActivatingFeatures'), 1);"
        " app.graph.remove(by('FeatureMixer')); app.graph.remove(by('FluxActivationSteer'));"
        " by('LoadShapesDemo').connect(0, by('KSampler'), 0); }"
    )
    comfy.run()
    heats = comfy.page.locator(f"{TABLE} canvas")
    assert heats.count() == 5
    assert (heats.nth(0).get_attribute("width"), heats.nth(0).get_attribute("height")) == ("8", "8")
    comfy.take(0)
    comfy.page.wait_for_selector(".p-toast-message:has-text('There is no Feature Mixer in this workflow')")


def test_the_panel_reads_well_in_both_themes(comfy):
    comfy.build()
    comfy.run()
    comfy.take(0)
    for theme in ("light", "dark"):
        comfy.client.post("/settings/Comfy.ColorPalette", theme)
        comfy.page.evaluate("(theme) => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
        comfy.page.wait_for_timeout(800)
        ink, ground = comfy.page.locator(".sae-steering-mixer").evaluate(
            "(panel) => [getComputedStyle(panel).color, getComputedStyle(panel).backgroundColor]"
        )
        assert contrast(ink, ground) > 4.5, (theme, ink, ground)


def contrast(one, other):
    """WCAG 2's contrast ratio of two rgb() colours."""
    first, second = sorted((luminance(one), luminance(other)), reverse=True)
    return (first + 0.05) / (second + 0.05)


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_table_of_a_set_says_the_place(comfy):
    comfy.build()
    comfy.page.evaluate(
        "() => { const by = (type) => app.graph.nodes.find((n) => n.comfyClass === type);"
        " const set = LiteGraph.createNode('SAESet'); set.pos = [20, 820]; app.graph.add(set);"
        " by('LoadShapesDemo').connect(2, set, 0); by('LoadShapesDemo').connect(3, set, 1);"
        " const top = by('TopActivatingFeatures'); set.connect(0, top, top.inputs.findIndex((i) => i.name === 'sae'));"
        " const mixer = by('FeatureMixer'); set.connect(0, mixer, 0);"
        " const steer = by('FluxActivationSteer');"
        " set.connect(0, steer, steer.inputs.findIndex((i) => i.name === 'sae')); }"
    )
    comfy.run()
    comfy.page.wait_for_selector(TABLE)
    heads = comfy.page.locator(f"{TABLE} th").all_inner_texts()
    assert [head.lower() for head in heads[:4]] == ["#", "feature", "place", "name"]
    rows = comfy.page.locator(f"{TABLE} tbody tr").all_inner_texts()
    assert len(rows) == 10
    places = comfy.page.locator(f"{TABLE} .sae-steering-place")
    assert places.all_inner_texts() == ["double 0"] * 5 + ["double 1 attn"] * 5
    assert places.first.get_attribute("title") == "transformer_blocks.0 (text)"
    out = "(all) => all.filter((one) => one.getBoundingClientRect().right >"
    out += " one.closest('.sae-steering-result').getBoundingClientRect().right).length"
    assert comfy.page.locator(f"{TABLE} .sae-steering-take").evaluate_all(out) == 0
    comfy.take(7)
    [row] = comfy.mix()
    assert row["feature"] >= 256  # the text's SAE has 256 features
    comfy.run()
    assert "At transformer_blocks.1.attn (image)." in comfy.page.locator(REPORT).inner_text()
