"""Galleries in ComfyUI: what TopActivatingFeatures draws is kept by owner, and tables show it from then on."""

from __future__ import annotations

import base64
from io import BytesIO

import comfy.model_management
import numpy as np
import pytest
import torch
from PIL import Image

from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.dictionary.sae_set import SaeSet
from sae_steering_pack.sae.hosts.comfyui import memory
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks
from tiny_flux import run_node


@pytest.fixture(scope="module")
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture
def find(node_classes, shapes):
    def run(sae, **more):
        gallery_paths = (
            [notebooks().of(member.sae).gallery_path for member in sae.members] if isinstance(sae, SaeSet) else []
        )
        given = {
            "model": shapes[0], "sae": sae, "latent_image": {"samples": torch.zeros(2, 16, 16, 16)}, "seed": 3,
            "steps": 4, "count": 5, "rank_by": "mean", "location": "auto", "stream": "auto",
            "positive": run_node(node_classes["ShapesPrompt"], text="blue square center big grey").result[0],
            "baseline": run_node(node_classes["ShapesPrompt"], text="red square center big grey").result[0],
        }  # fmt: skip
        output = run_node(node_classes["TopActivatingFeatures"], **{**given, **more})
        assert "gallery" not in more or all(path.is_file() for path in gallery_paths)
        return output.ui["sae_steering"][0]

    return run


def picture_of(table, number):
    url = table["gallery"][number]
    assert url.startswith("data:image/webp;base64,")
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


def test_tables_show_the_pictures_on_which_a_feature_fires(find, shapes):
    sae = shapes[4]  # of the picture's stream
    notebooks().of(sae).gallery_path.unlink(missing_ok=True)
    shipped = notebooks().of(sae).gallery
    table = find(sae, gallery=shapes[1])
    assert any("pictures show" in line for line in table["lines"])
    again = find(sae)
    assert again["rows"] == table["rows"] and again["gallery"] == table["gallery"]
    for row in table["rows"]:
        assert 1 <= len(row["pictures"]) <= 3
        strengths = [strength for _, strength, _ in row["pictures"]]
        assert strengths == sorted(strengths, reverse=True)
        if shipped is None:
            assert strengths[0] <= row["max"] * (1 + 1e-5)
        assert all(0 < part < 1 for _, _, spot in row["pictures"] for part in spot)
    numbers = {number for row in table["rows"] for number, *_ in row["pictures"]}
    assert numbers == set(table["gallery"])
    assert {picture_of(table, number).shape for number in numbers} == {(80, 80, 3)}


def test_of_a_text_no_spot_is_marked_and_of_a_set_each_member_has_its_own(find, shapes):
    table = find(shapes[2], gallery=shapes[1])
    assert all(spot is None for row in table["rows"] for _, _, spot in row["pictures"])
    table = find(shapes[6], gallery=shapes[1])
    places = {number.split("-")[0] for row in table["rows"] for number, *_ in row.get("pictures", [])}
    assert len(places) == 6 and all(
        number in table["gallery"] for row in table["rows"] for number, *_ in row["pictures"]
    )


def test_a_broken_gallery_shows_nothing_and_is_begun_anew(find, shapes, caplog):
    sae = shapes[3]
    path = notebooks().of(sae).gallery_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"broken")
    shown = find(sae)
    assert "this gallery cannot be read" in caplog.text
    assert ("gallery" in shown) == (notebooks().of(sae).gallery is not None)
    assert find(sae, gallery=shapes[1])["gallery"]


WORDS, CONTEXT = ["red", "blue", "green"], "{} square center big grey"
PROMPTS = [CONTEXT.replace("{}", word) for word in WORDS]


@pytest.fixture
def label(node_classes, shapes):
    def run(sae, **more):
        given = {
            "model": shapes[0], "clip": shapes[5], "sae": sae, "latent_image": {"samples": torch.zeros(2, 16, 16, 16)},
            "words": ", ".join(WORDS), "contexts": CONTEXT, "threshold": 0.85, "seed": 3, "steps": 4,
            "location": "auto", "stream": "auto", "gallery": shapes[1], **more,
        }  # fmt: skip
        return run_node(node_classes["LabelFeatures"], **given).result[0]

    yield run
    notebooks().labels_path(fingerprint(shapes[4])).unlink(missing_ok=True)


def kept(sae):
    """What a gallery holds, apart from the prompts; and these, after which it is gone."""
    gallery = notebooks().of(sae).gallery
    notebooks().of(sae).gallery_path.unlink()
    return (gallery.pictures, gallery.which.tolist(), gallery.strength.tolist()), gallery.spot, gallery.prompts


def test_labelling_keeps_the_pictures_that_finding_would(find, label, node_classes, shapes, monkeypatch):
    monkeypatch.setattr(memory, "MOST_RUNS", 1)  # finding draws one prompt at a time; larger batches round otherwise
    sae = shapes[4]
    notebooks().of(sae).gallery_path.unlink(missing_ok=True)
    told = label(sae)
    found, spots, prompts = kept(sae)
    assert f"{len(prompts)} pictures show " in told and set(prompts) == set(PROMPTS)
    for text in PROMPTS:
        positive = run_node(node_classes["ShapesPrompt"], text=text).result[0]
        find(sae, gallery=shapes[1], positive=positive, baseline=None)
    expected, expected_spots, _ = kept(sae)
    assert found == expected and torch.equal(spots.nan_to_num(), expected_spots.nan_to_num())


def test_cancel_keeps_the_pictures_of_what_was_done(label, shapes):
    sae, calls = shapes[4], []
    notebooks().of(sae).gallery_path.unlink(missing_ok=True)
    model = shapes[0].clone()

    def unet(apply, given):
        calls.append(1)
        if len(calls) == 9:  # in the third prompt
            comfy.model_management.interrupt_current_processing()
        return apply(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(unet)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        label(sae, model=model)
    assert set(notebooks().of(sae).gallery.prompts) == set(PROMPTS[:2])
    label(sae)
    assert set(kept(sae)[2]) == set(PROMPTS)


def test_pictures_of_noise_or_of_a_part_are_not_kept(label, find, shapes):
    sae = shapes[4]
    notebooks().of(sae).gallery_path.unlink(missing_ok=True)
    line = "No picture was kept: a mask hid a part, or all steps saw mostly noise; use no mask, or more steps."
    assert line in label(sae, steps=1)
    for more in ({"steps": 1}, {"mask": torch.ones(1, 128, 128)}):
        assert line in find(sae, gallery=shapes[1], **more)["lines"]
    assert not notebooks().of(sae).gallery_path.exists()
