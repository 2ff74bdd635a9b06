"""Which emoji are drawn, and what they are called: a small made-up folder of npm."""

import json

import pytest

from lab.emoji.drawings import load_drawings, read_names, read_svgs
from lab.emoji.fetch import NAMES, PACKAGES, package_folder

MESSAGES = {
    "groups": [
        {"key": "people-body", "order": 1},
        {"key": "component", "order": 2},
        {"key": "symbols", "order": 8},
        {"key": "flags", "order": 9},
    ],
    "subgroups": [{"key": "person-role", "order": 25}, {"key": "keycap", "order": 94}, {"key": "heart", "order": 14}],
}
COOK = {
    "label": "woman cook",
    "hexcode": "1F469-200D-1F373",
    "group": 1,
    "subgroup": 25,
    "tags": ["chef", "woman cook"],
    "skins": [
        {"label": "woman cook: light skin tone", "hexcode": "1F469-1F3FB-200D-1F373", "tone": 1},
        {"label": "woman cook: dark skin tone, light skin tone", "hexcode": "1F469-1F3FF-1F3FB", "tone": [5, 1]},
    ],
}
ENTRIES = [
    COOK,
    {"label": "red heart", "hexcode": "2764-FE0F", "group": 8, "subgroup": 14},
    {"label": "keycap: 1", "hexcode": "0031-FE0F-20E3", "group": 8, "subgroup": 94},
    {"label": "flag: Chad", "hexcode": "1F1F9", "group": 9, "subgroup": 98},
    {"label": "dark skin tone", "hexcode": "1F3FF", "group": 2, "subgroup": 32},
    {"label": "family: man, boy", "hexcode": "1F468", "group": 1, "subgroup": 25},
    {"label": "regional indicator A", "hexcode": "1F1E6"},
]


@pytest.fixture
def folder(tmp_path):
    english = package_folder(tmp_path, NAMES) / "en"
    english.mkdir(parents=True)
    (english / "messages.json").write_text(json.dumps(MESSAGES), encoding="utf-8")
    (english / "data.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    for package in PACKAGES.values():
        source = package_folder(tmp_path, package)
        source.mkdir(parents=True)
        icons = {"icons": {"heart": {"body": "<g/>", "width": 40}, "flag": {"body": "<b/>"}}, "width": 32, "height": 32}
        (source / "icons.json").write_text(json.dumps(icons), encoding="utf-8")
        codes = {"2764": "heart", "2764-fe0f": "heart", "1f1f9": "flag", "1f469-200d-1f373": "missing"}
        (source / "chars.json").write_text(json.dumps(codes), encoding="utf-8")
    return tmp_path


def test_names_without_flags_letters_families_and_two_skin_tones(folder):
    names = read_names(folder)
    assert list(names) == ["1F469-200D-1F373", "1F469-1F3FB-200D-1F373", "2764"]
    toned = names["1F469-1F3FB-200D-1F373"]
    assert toned == {
        "name": "woman cook: light skin tone",
        "base": "woman cook",
        "group": "people-body",
        "words": ("woman", "cook", "light-skin"),
        "tags": ("chef", "woman", "cook"),
        "tone": "light-skin",
    }
    assert names["2764"]["tone"] is None


def test_each_style_draws_a_name_once(folder):
    found = list(read_svgs(folder))
    assert [(drawing.style, drawing.name) for drawing, _ in found] == [(style, "red heart") for style in PACKAGES]
    assert 'viewBox="0 0 40 32"' in found[0][1]
    assert found[0][1].endswith("><g/></svg>")


def test_drawings_are_drawn_on_white_and_read_back(folder):
    pytest.importorskip("resvg_py")
    from lab.emoji.drawings import rasterize, write_drawings

    box = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 2" width="128" height="128">'
    pixels = rasterize(f'{box}<rect width="2" height="2" fill="#f00"/></svg>')
    assert pixels.shape == (128, 128, 3)
    assert pixels[64, 32].tolist() == [255, 0, 0]
    assert pixels[64, 96].tolist() == [255, 255, 255]  # where nothing is drawn
    assert pixels[10, 32].tolist() == [255, 255, 255]  # beside what is not square
    assert write_drawings(folder) == 3
    drawings, read = load_drawings(folder)
    assert [drawing for drawing, _ in read_svgs(folder)] == drawings
    assert read.shape == (3, 128, 128, 3)
    assert read.min() == 255  # an empty group draws nothing
