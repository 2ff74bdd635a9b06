"""CalibrateStrength on the Shapes model: its ranges are what single runs show, and Cancel leaves nothing behind."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch

from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.hosts.comfyui.model import identity_of
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks
from sae_steering_pack.sae.hosts.comfyui.sampling import Sampling, sample
from sae_steering_pack.sae.known.ranges import Measured, Setting, read_calibrations
from sae_steering_pack.sae.steering.calibration import CLEAR, UNRELATED, VISIBLE, compare
from sae_steering_pack.sae.steering.edits import Calibration, Edit, FeatureList
from sae_steering_pack.sae.steering.summary import LARGE_DELTA
from tiny_flux import run_node

LATENT = {"samples": torch.zeros(1, 16, 16, 16)}
FEATURES = FeatureList([Edit(72), Edit(65)])  # of red and of blue


@pytest.fixture(scope="module")
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture(autouse=True)
def nothing_stored(shapes):
    yield
    notebooks().of(shapes[2]).ranges_path.unlink(missing_ok=True)


@pytest.fixture
def calibrate(node_classes, shapes):
    text = node_classes["ShapesPrompt"].execute("red square left big white").result[0]

    def run(**more):
        inputs = {
            "model": shapes[0], "sae": shapes[2], "features": FEATURES, "positive": text, "latent_image": LATENT,
            "seed": 4, "steps": 2, "method": "add", "location": "auto", "stream": "auto",
        }  # fmt: skip
        return run_node(node_classes["CalibrateStrength"], **{**inputs, **more})

    run.text = text
    return run


def test_ranges_are_what_steering_shows(calibrate, node_classes, shapes) -> None:
    features, table = calibrate().result
    plain = sample(shapes[0], calibrate.text, LATENT, Sampling(4, 2), lambda *_: None)
    for edit in features:
        range_ = edit.calibration
        assert (edit.strength, edit.unit, range_.method) == (1.0, "calibrated", "add")
        change = {}
        for end in ("low", "clear", "high"):
            ratio = getattr(range_, end)  # which in this unit is the strength itself
            node = run_node(
                node_classes["FluxActivationSteer"], model=shapes[0], sae=shapes[2], features=FeatureList([edit]),
                method="add", strength=ratio / range_.clear, unit="token_norm", location="auto", stream="auto",
                start_percent=0.0, end_percent=1.0, apply_to="both",
            )  # fmt: skip
            drawn = sample(node.result[0], calibrate.text, LATENT, Sampling(4, 2), lambda *_: None)
            change[end] = compare(drawn, plain, ratio).change
        assert VISIBLE <= change["low"] < 2 * VISIBLE
        assert CLEAR * change["high"] <= change["clear"] <= change["high"] <= UNRELATED
        assert range_.high <= LARGE_DELTA
        assert f"{edit.feature:>8}" in table
    stored = read_calibrations(notebooks().of(shapes[2]).ranges_path, fingerprint(shapes[2]))
    setting = Setting(str(shapes[2].site), identity_of(shapes[0]), "")
    assert stored == [Measured(edit.feature, edit.calibration, setting) for edit in features]


@pytest.fixture
def offered(node_classes, shapes, calibrate):
    """The ranges for `add` that a table of TopActivatingFeatures offers for the features, by feature."""

    def run(model, location="auto"):
        result = run_node(
            node_classes["TopActivatingFeatures"], model=model, sae=shapes[2], positive=calibrate.text,
            latent_image=LATENT, seed=0, steps=1, count=200, rank_by="mean", location=location, stream="auto",
        )  # fmt: skip
        payload = result.ui["sae_steering"][0]
        rows = {row["feature"]: row.get("calibrations", []) for row in payload["rows"]}
        found = {edit.feature: rows[edit.feature] for edit in FEATURES if edit.feature in rows}
        assert found
        return {k: Calibration(**known[0]) for k, known in found.items() if known}, payload["lines"]

    return run


def ranges(result):
    return {edit.feature: edit.calibration for edit in result.result[0]}


def some_of(offer, result):
    """Whether what is offered is what was found."""
    found = ranges(result)
    return bool(offer) and all(found[k] == calibration for k, calibration in offer.items())


def with_lora(model):
    other = model.clone()
    key = "diffusion_model.double_blocks.1.img_attn.proj.weight"
    other.add_patches({key: ("diff", (0.3 * torch.randn(128, 128, generator=torch.Generator().manual_seed(1)),))})
    return other


def test_each_model_and_place_has_its_own_range(calibrate, offered, shapes) -> None:
    other = with_lora(shapes[0])
    mine = calibrate()
    theirs = calibrate(model=other)
    elsewhere = calibrate(location="transformer_blocks.1")
    assert len({str(ranges(found)) for found in (mine, theirs, elsewhere)}) == 3
    assert some_of(offered(shapes[0])[0], mine)
    assert some_of(offered(other)[0], theirs)
    assert some_of(offered(shapes[0], "transformer_blocks.1")[0], elsewhere)
    none, [line] = offered(other, "transformer_blocks.1")
    assert none == {} and "is used at transformer_blocks.1 (text)" in line


def test_steering_with_a_range_of_another_model_is_told(calibrate, node_classes, shapes) -> None:
    features = calibrate().result[0]

    def told(model, location="auto"):
        node = run_node(
            node_classes["FluxActivationSteer"], model=model, sae=shapes[2], features=features, method="add",
            strength=1.0, unit="token_norm", location=location, stream="auto", start_percent=0.0, end_percent=1.0,
            apply_to="both",
        )  # fmt: skip
        return [line for line in node.ui["text"] if "calibrated on another model" in line]

    assert told(shapes[0]) == []
    assert len(told(with_lora(shapes[0]))) == 1
    assert len(told(shapes[0], "transformer_blocks.1")) == 1


def test_swap_and_not_saving(calibrate, shapes) -> None:
    known = {"mean": 3.0, "max": 5.0, "density": 0.3}
    result = calibrate(
        method="swap", save=False, features=FeatureList([Edit(65, **known)]), replaces=FeatureList([Edit(72, **known)])
    )
    assert result.result[0][0].calibration.method == "swap"
    path = notebooks().of(shapes[2]).ranges_path
    stored = read_calibrations(path, fingerprint(shapes[2])) if path.is_file() else []
    assert "swap" not in {measured.calibration.method for measured in stored}


def test_mistakes(calibrate) -> None:
    with pytest.raises(ValueError, match=r"^features: the list is empty"):
        calibrate(features=FeatureList())
    with pytest.raises(ValueError, match=r"^replaces: 'swap' needs the features to take out"):
        calibrate(method="swap")


def test_cancel_stops_within_a_step(calibrate, shapes) -> None:
    calls = []
    model = shapes[0].clone()
    model.set_model_unet_function_wrapper(lambda f, kwargs: _count(calls, f, kwargs))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        calibrate(model=model)
    comfy.model_management.interrupt_current_processing(False)
    assert len(calls) == 3


def _count(calls, function, kwargs):
    calls.append(1)
    if len(calls) == 3:
        comfy.model_management.interrupt_current_processing(True)
    return function(kwargs["input"], kwargs["timestep"], **kwargs["c"])
