"""Feature Browser as a user has it: what is on the screen is what the SAE's own files say, and a click adds it."""

import shutil
import time

import pytest
import torch

from comfy_page import SEEN
from sae.demo.shipped_weights import IMAGE_SAE, TEXT_SAE, load_sae
from sae.dictionary.statistics import FeatureStatistics
from sae.export import export
from sae.known.labels import read_labels
from small_saes import small_sae

PANEL = ".sae-steering-browser"
ROW = 34  # units of height, as in browser.js
MANY = 49_152

ADD = """
([loader, output]) => {
  const node = LiteGraph.createNode("FeatureBrowser");
  node.pos = [440, 60];
  const from = app.graph.nodes.find((n) => n.comfyClass === loader);
  const top = app.graph.nodes.find((n) => n.comfyClass === "TopActivatingFeatures");
  top.pos = [1480, 660];
  app.graph.add(node);
  from.connect(from.outputs.findIndex((slot) => slot.name === output), node, 0);
}
"""
SHOWN = f"""
() => {{
  const panel = ({SEEN})("FeatureBrowser");
  const box = panel.querySelector(".sae-steering-window").getBoundingClientRect();
  const rows = [...panel.querySelectorAll("li")].filter((row) => {{
    const {{ top, bottom }} = row.getBoundingClientRect();
    return bottom > box.top + 1 && top < box.bottom - 1;
  }});
  return rows.map((row) => [
    Number(row.querySelector(".sae-steering-index").textContent),
    row.querySelector(".sae-steering-called").textContent,
    row.querySelector(".sae-steering-bar").textContent,
    row.querySelectorAll("img").length,
  ]);
}}
"""


@pytest.fixture
def browse(comfy):
    """Puts a browser of one of the demo's SAEs into the graph; nothing is run."""

    def run(loader="LoadShapesDemo", output="sae_text"):
        comfy.page.evaluate(ADD, [loader, output])
        return comfy

    comfy.build()
    return run


def title(comfy, text):
    comfy.page.wait_for_selector(f"{PANEL} .sae-steering-title:text-is('{text}')")


def shown(comfy, first):
    """The rows that a person sees, once `first` is the number of the first one."""
    comfy.page.wait_for_function(f"(first) => ({SHOWN})()[0]?.[0] === first", arg=first)
    return comfy.page.evaluate(SHOWN)


def search(comfy, words, order="number"):
    comfy.page.locator(f"{PANEL} select").select_option(order)
    comfy.page.locator(f"{PANEL} .sae-steering-search").fill(words)


def scroll(comfy, row):
    comfy.page.locator(f"{PANEL} .sae-steering-window").evaluate("(box, top) => { box.scrollTop = top; }", row * ROW)


def told(comfy):
    """The newest answer at the window's corner."""
    return comfy.page.locator(".p-toast-detail").last.inner_text()


def test_what_is_seen_is_what_the_files_say(browse):
    comfy, sae = browse(), load_sae(TEXT_SAE)
    weights = sae.origin.files[0]
    labels = read_labels(weights.with_name("model.labels.json"))
    density = sae.statistics.density
    title(comfy, f"{sae.name}: 256 features")
    for order, expected in [
        ("number", list(range(256))),
        ("density", density.argsort(descending=True, stable=True).tolist()),
        ("name", sorted(range(256), key=lambda k: (k not in labels, labels[k].name.lower() if k in labels else ""))),
    ]:
        search(comfy, "", order)
        for top in (0, 120):
            scroll(comfy, top)
            rows = shown(comfy, expected[top])
            assert [row[0] for row in rows] == expected[top : top + len(rows)] and len(rows) >= 7
            assert [row[1] for row in rows] == [labels[k].name if k in labels else "" for k, *_ in rows]
            for k, _, often, _ in rows:
                share = float(density[k])
                assert often == "never" if share == 0 else float(often.split()[0]) == pytest.approx(100 * share, 5e-3)
    search(comfy, "blue", "number")
    comfy.page.wait_for_function(
        f"() => document.querySelector('{PANEL} .sae-steering-title').textContent.includes(' of ')"
    )
    by_name = [k for k, label in labels.items() if label.name == "blue"]
    by_name += [k for k, label in labels.items() if label.name.startswith("blue") and k not in by_name]
    by_name += [k for k, label in labels.items() if "blue" in label.name and k not in by_name]
    found = by_name + [k for k, label in labels.items() if "blue" in label.note and k not in by_name]
    title(comfy, f"{sae.name}: {len(found)} of 256 features")
    rows = shown(comfy, found[0])
    assert [row[0] for row in rows] == found[: len(rows)] and len(rows) >= 7
    assert any(row[3] == 3 for row in rows)  # pictures
    search(comfy, "no such name")
    comfy.page.wait_for_selector("text=No feature has that name.")


def test_a_click_adds_to_the_mixer_of_the_same_sae_and_to_no_other(browse):
    comfy = browse()
    search(comfy, "31")
    page = comfy.page
    assert shown(comfy, 31)[0][0] == 31
    page.locator(f"{PANEL} li").first.click()
    comfy.see([[31, 1, True]])
    assert told(comfy) == "Feature 31 is in Feature Mixer."
    assert comfy.mix()[0]["owner"]["name"] == TEXT_SAE and comfy.mix()[0]["max"] > 0
    # undo builds the nodes anew: the list shows what it showed, and is the one that counts
    comfy.deselect()
    page.keyboard.press("Control+z")
    comfy.see([])
    shown(comfy, 31)
    assert page.locator(f"{PANEL} .sae-steering-search").input_value() == "31"
    page.locator(f"{PANEL} .sae-steering-take").first.focus()
    page.keyboard.press("Enter")
    comfy.see([[31, 1, True]])
    # another SAE is connected: the list follows, and its features do not go into the mixer
    page.evaluate(
        "() => { const by = (type) => app.graph.nodes.find((n) => n.comfyClass === type);"
        " const demo = by('LoadShapesDemo');"
        " demo.connect(demo.outputs.findIndex((slot) => slot.name === 'sae_image'), by('FeatureBrowser'), 0); }"
    )
    page.wait_for_selector(f"{PANEL} .sae-steering-title:has-text('{IMAGE_SAE}')")
    page.locator(f"{PANEL} li").first.click()
    page.wait_for_selector("text=The panels here belong to other SAEs; select the one you mean, or add another.")
    page.evaluate("() => app.canvas.select(app.graph.nodes.find((n) => n.comfyClass === 'FeatureMixer'))")
    page.locator(f"{PANEL} li").first.click()
    page.wait_for_selector(f"text=Feature 31 is of {IMAGE_SAE}, but Feature Mixer has {TEXT_SAE}.")
    comfy.see([[31, 1, True]])
    saved = comfy.save()
    assert "sae_steering_browser" not in saved
    comfy.open()
    comfy.load(saved)
    title(comfy, f"{IMAGE_SAE}: 1024 features")
    shown(comfy, 0)


def test_a_name_given_in_the_mixer_and_pictures_on_a_card(browse):
    comfy = browse()
    page = comfy.page
    shown(comfy, 0)
    page.locator(f"{PANEL} li").first.click()
    comfy.see([[0, 1, True]])
    for target in (comfy.row(0).locator(".sae-steering-index"), page.locator(f"{PANEL} .sae-steering-called").first):
        page.mouse.move(5, 500)
        page.wait_for_selector(".sae-steering-card", state="hidden")
        target.hover()
        page.wait_for_selector(".sae-steering-card", state="visible")
        text = page.locator(".sae-steering-card").inner_text()
        assert text.startswith("0 · circle") and "It fires on 11.1 % of the tokens" in text and "{" not in text
        assert (
            page.locator(".sae-steering-card img").evaluate_all("(all) => all.map((one) => one.naturalWidth)")
            == [80] * 3
        )
    name = comfy.row(0).locator(".sae-steering-name")
    name.fill("my circle")
    name.press("Enter")
    page.wait_for_function(f"() => ({SHOWN})()[0][1] === 'my circle'")
    scroll(comfy, 100)
    shown(comfy, 100)
    scroll(comfy, 0)
    assert shown(comfy, 0)[0][1] == "my circle"
    name.fill("")
    name.press("Enter")
    page.wait_for_function(f"() => ({SHOWN})()[0][1] === 'circle'")


def test_an_sae_that_no_loader_tells_is_known_after_a_run(browse, comfy):
    comfy.page.evaluate(
        "() => { const demo = app.graph.nodes.find((n) => n.comfyClass === 'LoadShapesDemo');"
        " const set = LiteGraph.createNode('SAESet'); set.pos = [20, 820]; app.graph.add(set);"
        " demo.connect(2, set, 0); demo.connect(3, set, 1); }"
    )
    browse("SAESet", "sae")
    comfy.page.wait_for_selector("text=Run once: only then is it known which SAE this node is given.")
    comfy.run()
    comfy.page.wait_for_selector(f"{PANEL} .sae-steering-title:has-text(': 768 features')")
    search(comfy, "600")
    shown(comfy, 600)


@pytest.fixture
def density(server):
    """How often the features of an SAE that is called many/model fire; it is gone when the test is through."""
    folder = server.place.models / "sae" / "many"
    often = torch.rand(MANY, generator=torch.Generator().manual_seed(0)) ** 4
    export(small_sae("relu", 8, MANY, FeatureStatistics(None, None, often, 1000)), folder, "sae_steering")
    yield often
    shutil.rmtree(folder)


def test_tens_of_thousands_of_features_stay_fluid(comfy, density):
    comfy.open()  # the list of files is asked when the page loads
    page = comfy.page
    page.evaluate(
        "() => { app.graph.clear(); app.graph.id = crypto.randomUUID();"
        " const [load, node] = ['LoadSAE', 'FeatureBrowser'].map((type) => LiteGraph.createNode(type));"
        " load.pos = [20, 60]; node.pos = [440, 60]; app.graph.add(load); app.graph.add(node);"
        " load.widgets.find((w) => w.name === 'sae_name').value = 'many/model.safetensors'; load.connect(0, node, 0);"
        " Object.assign(app.canvas.ds, { scale: 0.8 }); app.canvas.ds.offset = [60, 40];"
        " app.canvas.setDirty(true, true); }"
    )
    title(comfy, f"many/model: {MANY} features")
    search(comfy, "", "rarity")
    expected = density.argsort(stable=True).tolist()
    shown(comfy, expected[0])
    started = time.monotonic()
    for row in (10_000, 30_000, MANY // 2):
        scroll(comfy, row)
        rows = shown(comfy, expected[row])
        assert [k for k, *_ in rows] == expected[row : row + len(rows)]
        assert page.locator(f"{PANEL} li").count() < 40
    scroll(comfy, MANY)
    page.wait_for_function(f"(last) => ({SHOWN})().at(-1)?.[0] === last", arg=expected[-1])
    assert time.monotonic() - started < 20
