"""Every node has a help page with a picture of it, and the documents' links lead somewhere."""

import json
import re

import pytest
from PIL import Image

from expected_nodes import INPUTS, NODE_IDS
from project_files import ROOT

DOCS = ROOT / "web" / "docs"
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *DOCS.glob("*.md")]


@pytest.mark.parametrize("node", sorted(NODE_IDS))
def test_the_page_shows_the_node_and_tells_its_inputs(node):
    text = (DOCS / f"{node}.md").read_text(encoding="utf-8")
    assert f"](images/{node}.jpg)" in text
    with Image.open(DOCS / "images" / f"{node}.jpg") as picture:
        assert 100 < picture.width < 1000
        assert 60 < picture.height < 1200
    assert len(text.split()) > 40 or not INPUTS[node]


def test_no_page_and_no_picture_is_left_over():
    assert {path.stem for path in DOCS.glob("*.md")} == NODE_IDS
    assert {path.stem for path in (DOCS / "images").iterdir()} == NODE_IDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_node_is_in_an_example_or_a_test():
    shown = {
        node["type"]
        for path in (ROOT / "example_workflows").glob("*.json")
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
    }
    tested = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "comfyui").rglob("*.py"))
    assert {node for node in NODE_IDS - shown if f'"{node}"' not in tested} == set()
