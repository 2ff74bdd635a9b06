"""From an empty canvas to a steer of one's own, with the mouse and the keyboard alone, and the clicks counted."""

import torch

from comfy_server import PACK_FOLDER
from lab.judge.reader import read_pictures

MOST_CLICKS = 6  # and Run
TEXTS = {
    "CLIPTextEncode": {"text": "green triangle left big white"},
    "ConceptSteer": {"wanted": "purple triangle", "instead_of": "green triangle"},
}
AT = """
([type, name]) => {
  const node = app.graph.nodes.find((candidate) => candidate.comfyClass === type);
  const field = node.widgets.find((widget) => widget.name === name).element;
  const shown = [...document.querySelectorAll(`[data-node-id="${node.id}"] textarea`)];
  const texts = node.widgets.filter((widget) => widget.element?.tagName === "TEXTAREA");
  const box = (shown[texts.indexOf(node.widgets.find((w) => w.name === name))] ?? field).getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
}
"""


class Hand:
    """A mouse that counts."""

    def __init__(self, page):
        self.page, self.clicks = page, 0

    def click(self, found):
        self.clicks += 1
        found.click()

    def click_at(self, x, y):
        self.clicks += 1
        self.page.mouse.click(x, y)


def test_green_triangle_to_purple_in_six_clicks(comfy):
    page = comfy.page
    page.set_viewport_size({"width": 1600, "height": 1000})
    hand = Hand(page)
    hand.click(page.locator(".side-tool-bar-container, nav").get_by_role("button", name="Templates").first)
    hand.click(page.get_by_role("button", name=PACK_FOLDER))
    hand.click(page.get_by_title("Start here").first)
    page.wait_for_function("() => app.graph.nodes.some((node) => node.comfyClass === 'ConceptSteer')")
    page.wait_for_timeout(1500)
    for node, fields in TEXTS.items():
        for name, text in fields.items():
            hand.click_at(*page.evaluate(AT, [node, name]))
            page.keyboard.press("Control+a")
            page.keyboard.type(text)
    assert hand.clicks <= MOST_CLICKS
    entry = comfy.finish("document.querySelector('[data-testid=queue-button]').click()")
    number = page.evaluate("() => app.graph.nodes.find((node) => node.comfyClass === 'BeforeAndAfter').id")
    before, after = (
        read_pictures(torch.stack([comfy.picture(one) for one in entry["outputs"][str(number)][side]]))
        for side in ("before", "after")
    )
    assert [picture.colour for picture in before] == ["green"] * 4
    assert [picture.colour for picture in after].count("purple") >= 3
    assert [picture.shape for picture in before] == ["triangle"] * 4
