"""SteeringSweep: each cell is the picture that the single nodes draw, and Cancel keeps what is done."""

from __future__ import annotations

import comfy.model_management
import comfy.sample
import numpy as np
import pytest
import torch
from PIL import Image

from sae_steering_pack.sae.drawing.sheet import GAP, HEAD, SIDE
from sae_steering_pack.sae.hosts.comfyui import memory
from sae_steering_pack.sae.hosts.comfyui.own_folders import output_folder
from sae_steering_pack.sae.hosts.comfyui.steering import steer
from sae_steering_pack.sae.steering.delta import Steering
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from sae_steering_pack.sae.steering.intervention import Intervention
from tiny_flux import run_node

LATENT = {"samples": torch.zeros(2, 16, 16, 16)}
FEATURES = [3, 9]
EDITS = [Edit(FEATURES[0]), Edit(FEATURES[1], 0.5)]
ROWS = [EDITS, EDITS[:1], EDITS[1:]]  # all together, then each alone


@pytest.fixture(scope="module")
def shapes(node_classes):
    return node_classes["LoadShapesDemo"].execute().result


@pytest.fixture
def sweep(node_classes, shapes):
    text = node_classes["ShapesPrompt"].execute("red square left big white").result[0]

    def run(**more):
        inputs = {
            "model": shapes[0], "vae": shapes[1], "sae": shapes[2], "method": "add", "unit": "token_norm",
            "features": FeatureList(EDITS), "strengths": "0.2, 0.4",
            "controls": True, "positive": text, "negative": text, "latent_image": LATENT, "seed": 4, "steps": 3,
            "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "location": "auto",
            "stream": "auto",
        }  # fmt: skip
        return run_node(node_classes["SteeringSweep"], **{**inputs, **more})

    run.text = text
    return run


def cell(sheet, row, column, side=128):
    top, left = HEAD + row * (side + GAP), SIDE + column * (side + GAP)
    inner = sheet[0, top + 1 : top + side - 1, left + 1 : left + side - 1]  # without the frame
    return (inner * 255).round()


def alike(one, other):
    """Pictures that were drawn in one batch differ from single ones by rounding: by one level at most."""
    return bool((one - other).abs().max() <= 1)


def drawn(model, vae, text):
    empty = torch.zeros(1, 16, 16, 16)
    noise = comfy.sample.prepare_noise(empty, 4)
    latent = comfy.sample.sample(model, noise, 3, 1.0, "euler", "simple", text, text, empty, disable_pbar=True, seed=4)
    return (vae.decode(latent)[0, 1:-1, 1:-1] * 255).round()


def steered(shapes, edits, strength, random=None, **more):
    how = {"method": "add", "unit": "token_norm", **more}
    steering = Steering(shapes[2], edits, strength=strength, **how)
    reports = []
    return steer(shapes[0], [Intervention(steering, shapes[2].site)], reports.append, random), reports


def test_every_cell_is_the_picture_of_the_single_nodes(sweep, shapes):
    sheet = sweep().result[0]
    assert sheet.shape == (1, HEAD + 3 * (128 + GAP) + GAP, SIDE + 4 * (128 + GAP) + GAP, 3)
    plain = drawn(shapes[0], shapes[1], sweep.text)
    for row, edits in enumerate(ROWS):
        assert alike(cell(sheet, row, 0), plain)
        for column, strength in enumerate((0.2, 0.4), 1):
            model, _ = steered(shapes, edits, strength)
            expected = drawn(model, shapes[1], sweep.text)
            assert alike(cell(sheet, row, column), expected)
            assert not alike(expected, plain)
        control, reports = steered(shapes, edits, 0.4, random=7)
        assert alike(cell(sheet, row, 3), drawn(control, shapes[1], sweep.text))
        if row:
            assert reports[0].mean_ratio == pytest.approx(0.4 * edits[0].strength, rel=1e-3)


def test_with_replaces_each_row_swaps(sweep, shapes):
    known = {"mean": 2.0, "max": 4.0, "density": 0.3}
    edits = [Edit(edit.feature, edit.strength, **known) for edit in EDITS]
    out = FeatureList([Edit(31, 1.0, **known)], owner=shapes[2].owner)
    features = FeatureList(edits, owner=shapes[2].owner)
    sheet = sweep(features=features, replaces=out, method="auto", unit="auto", strengths="1").result[0]
    for row, chosen in enumerate((edits, edits[:1], edits[1:])):
        how = {"method": "swap", "unit": "auto", "replaces": out}
        expected = drawn(steered(shapes, chosen, 1.0, **how)[0], shapes[1], sweep.text)
        assert alike(cell(sheet, row, 1), expected)
        control, _ = steered(shapes, chosen, 1.0, random=7, **how)
        assert alike(cell(sheet, row, 2), drawn(control, shapes[1], sweep.text))
    with pytest.raises(ValueError, match="replaces: 'add' takes no features out; use swap or replace"):
        sweep(features=features, replaces=out)
    with pytest.raises(ValueError, match="replaces: 'swap' needs the features to take out"):
        sweep(features=features, method="swap")


def test_large_pictures_are_made_smaller_and_controls_can_be_left_out(sweep):
    small = {"strengths": "0.3", "controls": False, "features": FeatureList(EDITS[:1])}
    sheet = sweep(**small, latent_image={"samples": torch.zeros(1, 16, 80, 64)}).result[0]
    assert sheet.shape == (1, HEAD + 512 + GAP + GAP, SIDE + 2 * (410 + GAP) + GAP, 3)


def test_cancel_keeps_what_is_done(sweep, shapes, monkeypatch):
    monkeypatch.setattr(memory, "MOST_RUNS", 1)
    calls = []

    def cancel(module, inputs):
        calls.append(module)
        if len(calls) == 8:  # in the third picture
            comfy.model_management.interrupt_current_processing()

    hook = shapes[0].model.diffusion_model.register_forward_pre_hook(cancel)
    path = output_folder() / "sweep-cancelled.png"
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sweep()
    finally:
        hook.remove()
    assert len(calls) <= 9
    with Image.open(path) as picture:
        kept = torch.from_numpy(np.asarray(picture).astype(np.float32) / 255).unsqueeze(0)
    path.unlink()
    whole = sweep().result[0]
    assert kept.shape == whole.shape
    for column, there in enumerate((True, True, False, False)):
        assert torch.equal(cell(kept, 0, column), cell(whole, 0, column)) == there
    assert len(set(cell(kept, 0, 3).unique().tolist())) == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"strengths": "a lot"}, "strengths: 'a lot' is no list of numbers"),
        ({"strengths": " , "}, "strengths: ' , ' is no list of finite numbers"),
        ({"strengths": "1, inf"}, "is no list of finite numbers"),
        ({"features": FeatureList()}, "features: the list is empty"),
        ({"strengths": ",".join(["0.1"] * 300)}, "3 rows by 300 strengths are 904 pictures; a sheet has 400"),
        ({"unit": "max", "features": FeatureList([Edit(10**6)])}, "features: feature 1000000 does not exist"),
        ({"location": "transformer_blocks.9"}, "location: transformer_blocks.9"),
    ],
)
def test_mistakes_are_told_in_one_sentence(sweep, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        sweep(**more)


def test_several_places_give_a_row_for_each(sweep, shapes) -> None:
    places = "transformer_blocks.0; transformer_blocks.1"
    sheet = sweep(location=places, stream="text", controls=False).result[0]
    for number, place in enumerate(("transformer_blocks.0", "transformer_blocks.1")):
        alone = sweep(location=place, stream="text", controls=False).result[0]
        for row, here in ((0, number), (1, 2 + 2 * number), (2, 3 + 2 * number)):  # the two that go together first
            for column in (0, 1, 2):
                assert alike(cell(sheet, here, column), cell(alone, row, column))
    assert not alike(cell(sheet, 0, 2), cell(sheet, 1, 2))
