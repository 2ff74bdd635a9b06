"""CalibrateStrength on the Shapes model: its ranges are what single runs show, and Cancel leaves nothing behind."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch

from sae_steering_pack.nodes.shared.feature_names import calibration_path
from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.hosts.comfyui.sampling import Sampling, sample
from sae_steering_pack.sae.steering.calibration import CLEAR, UNRELATED, VISIBLE, compare
from sae_steering_pack.sae.steering.calibration_file import read_calibrations
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from sae_steering_pack.sae.steering.record import LARGE_DELTA
from tiny_flux import run_node

LATENT = {"samples": torch.zeros(1, 16, 16, 16)}
FEATURES = FeatureList([Edit(31), Edit(65)])


@pytest.fixture(scope="module")
def shapes(node_classes):
    return node_classes["LoadShapesDemo"].execute().result


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
    stored = read_calibrations(calibration_path(fingerprint(shapes[2])), fingerprint(shapes[2]))
    assert stored["add"] == {edit.feature: edit.calibration for edit in features}


def test_swap_and_not_saving(calibrate, shapes) -> None:
    known = {"mean": 3.0, "max": 5.0, "density": 0.3}
    result = calibrate(
        method="swap", save=False, features=FeatureList([Edit(65, **known)]), replaces=FeatureList([Edit(31, **known)])
    )
    assert result.result[0][0].calibration.method == "swap"
    path = calibration_path(fingerprint(shapes[2]))
    assert not path.is_file() or "swap" not in read_calibrations(path, fingerprint(shapes[2]))


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
