"""Recipes as presets of the mixer: from the menu with their pictures, and as files that are dropped onto the panel."""

import json
import shutil

import pytest
from PIL import Image

from comfy_page import SIZES
from sae.demo.shipped_weights import IMAGE_SAE, TEXT_SAE, load_sae
from sae.dictionary.fingerprint import fingerprint
from sae.steering.edits import Edit
from sae.steering.recipe import NeededSae, Recipe, write_recipe

PANEL = ".sae-steering-mixer"
MENU = ".sae-steering-presets"
DROP = """
(panel, { name, text, type }) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([text], name, { type }));
  const about = { bubbles: true, cancelable: true, dataTransfer };
  const over = new DragEvent("dragover", about);
  panel.dispatchEvent(over);
  const drop = new DragEvent("drop", about);
  let reached = false; // whether core, at the document, gets it
  const listen = () => { reached = true; };
  document.body.addEventListener("drop", listen, { once: true });
  panel.dispatchEvent(drop);
  document.body.removeEventListener("drop", listen);
  return [over.defaultPrevented, reached];
}
"""


def recipe(name, *edits, **more):
    sae = load_sae(name)
    needed = NeededSae(fingerprint(sae), sae.name)
    return write_recipe(Recipe(edits, needed, sae.site.location, sae.site.stream, unit="token_norm", **more))


EDITS = (Edit(48, 1.5, unit="auto"), Edit(152, 0.4, max=3.0, unit="max"), Edit(9, -0.1))
BLUE = recipe(TEXT_SAE, *EDITS, names={48: "deep <b>blue"}, strength=0.8, note="red turns blue")
OTHER = recipe(IMAGE_SAE, Edit(3))
ROWS = [[48, 1.5, True], [152, 0.4, True], [9, -0.1, True]]
REFUSED = f"recipe: it was made with {IMAGE_SAE} "


@pytest.fixture
def folder(server, comfy):  # which takes away what lies there
    place = server.place.output / "sae" / "recipes"
    place.mkdir(parents=True, exist_ok=True)
    (place / "blue.json").write_text(BLUE, encoding="utf-8")
    (place / "another.json").write_text(OTHER, encoding="utf-8")
    Image.new("RGB", (64, 64), "blue").save(place / "blue.png")
    yield place
    shutil.rmtree(place)


@pytest.fixture
def page(comfy):
    comfy.build()
    comfy.mix()  # a prompt puts the nodes into an order, which core would count as a step of undo
    return comfy.page


def told(page, text):
    page.wait_for_selector(f"{PANEL} .sae-steering-message:has-text('{text}')")
    return page.locator(f"{PANEL} .sae-steering-message").inner_text()


def refusals(comfy, count):
    """Chromium writes each answer of status 400 to the console; these were wanted."""
    assert len(comfy.complaints) == count, comfy.complaints
    assert all("400 (Bad Request)" in line and "/sae_steering/preset" in line for line in comfy.complaints)
    comfy.complaints.clear()


def choose(page, name):
    page.locator(f"{PANEL} .sae-steering-preset").click()
    page.locator(f"{MENU} [role=menuitem]:has-text('{name}')").click()


def test_a_recipe_of_the_menu_fills_the_panel(comfy, page, folder):
    page.locator(f"{PANEL} .sae-steering-preset").click()
    items = page.locator(f"{MENU} [role=menuitem]")
    items.nth(1).wait_for()
    assert [text.splitlines()[0] for text in items.all_inner_texts()] == ["blue", "another"]  # those that fit first
    assert "3 features\nred turns blue" in items.nth(0).inner_text()
    assert f"1 feature, of {IMAGE_SAE}" in items.nth(1).inner_text()
    page.wait_for_function(f"() => document.querySelector('{MENU} img').naturalWidth === 64")
    page.keyboard.press("Escape")
    page.wait_for_selector(MENU, state="hidden")
    choose(page, "blue")
    comfy.see(ROWS)
    assert comfy.mix()[0]["name"] == "deep <b>blue" and "name" not in comfy.mix()[2]
    assert [row["unit"] for row in comfy.mix()] == ["auto", "max", "token_norm"]
    assert comfy.row(0).locator(".sae-steering-unit").input_value() == "auto"
    assert page.locator(f"{PANEL} .sae-steering-tools .sae-steering-number").input_value() == "0.8"  # of all rows
    text = told(page, "is in the panel")
    assert text.startswith("“blue” is in the panel. It was saved with method add, location")
    # it is one step of undo, the panel's height with it
    page.wait_for_timeout(500)
    kept, live = page.evaluate(SIZES)
    assert kept == live
    comfy.deselect()
    page.keyboard.press("Control+z")
    comfy.see([])
    choose(page, "blue")
    comfy.see(ROWS)
    # with the keyboard, and of another SAE: a sentence, and nothing changes
    page.locator(f"{PANEL} .sae-steering-preset").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.matches('[role=menuitem]')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert TEXT_SAE in told(page, REFUSED)
    refusals(comfy, 1)
    comfy.see(ROWS)


def test_a_recipe_that_is_dropped_fills_the_panel_and_other_files_are_cores(comfy, page):
    panel = page.locator(PANEL)

    def drop(text, name="mine.json", kind="application/json"):
        return panel.evaluate(DROP, {"name": name, "text": text, "type": kind})

    assert drop(BLUE) == [True, False]
    comfy.see(ROWS)
    assert told(page, "“mine” is in the panel.")
    assert drop(OTHER) == [True, False]
    told(page, REFUSED)
    drop(json.dumps({"nodes": []}))
    told(page, "recipe: its format is None, but")
    drop("{" * 1_000_001)
    told(page, "mine.json has 1 MB, but no recipe has more than 1 MB.")
    comfy.see(ROWS)
    refusals(comfy, 2)
    assert drop("x", "notes.txt", "text/plain")[1] is True
    comfy.see(ROWS)
    page.locator(f"{PANEL} .sae-steering-preset").click()
    page.wait_for_selector("text=There is no recipe yet: Save Recipe writes them into output/sae/recipes.")


def test_the_search_shows_pictures(comfy, page):
    field = page.locator(f"{PANEL} .sae-steering-add")
    field.fill("triangle")
    page.wait_for_function(
        f"() => document.querySelectorAll('{PANEL} [role=option]:first-child img').length === 3"
        f" && [...document.querySelectorAll('{PANEL} [role=option] img')].every((one) => one.naturalWidth === 80)"
    )
    titles = page.locator(f"{PANEL} [role=option] [title], {PANEL} [role=option]").evaluate_all(
        "(all) => all.map((one) => one.title)"
    )
    assert not [title for title in titles if "{" in title]
    number = int(page.locator(f"{PANEL} [role=option] b").nth(0).inner_text())
    field.press("Enter")
    comfy.see([[number, 1, True]])
