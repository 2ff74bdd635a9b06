"""The loops inside ComfyUI: every step of every run is told, with previews where pictures are drawn, on any latent."""

from __future__ import annotations

import comfy.utils
import latent_preview
import pytest
import torch

from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.hosts.comfyui import memory
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks
from sae_steering_pack.sae.steering.calibration import MOST_READINGS
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import run_node

LATENT = {"samples": torch.zeros(1, 16, 16, 16)}
STEPS = 2


class Previewer:
    """Gives what may be shown of a step: here the step's own latent size."""

    def decode_latent_to_preview_image(self, kind, latent):
        return kind, tuple(latent.shape)


@pytest.fixture(scope="module")
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture
def told(monkeypatch):
    """Every update of a progress bar; ComfyUI's own hook leaves out those that follow closely."""
    found = []

    def update(bar, value, total=None, preview=None):
        found.append((value, bar.total if total is None else total, preview))

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *args: Previewer())
    return found


@pytest.fixture(params=[1, 4])
def most(request, monkeypatch):
    """How many runs go into one batch."""
    monkeypatch.setattr(memory, "MOST_RUNS", request.param)
    return request.param


def bar(runs, most):
    """Where it stands after each step of so many runs, up to `most` of them at once."""
    sizes = [min(most, runs - first) for first in range(0, runs, most)]
    return [first * most * STEPS + size * step for first, size in enumerate(sizes) for step in range(1, STEPS + 1)]


@pytest.fixture
def text(node_classes):
    return node_classes["ShapesPrompt"].execute("red square left big white").result[0]


def test_a_sweep_tells_every_step_with_a_preview(node_classes, shapes, text, told, most) -> None:
    run_node(
        node_classes["SteeringSweep"], model=shapes[0], vae=shapes[1], sae=shapes[2], method="add", unit="token_norm",
        features=FeatureList([Edit(3)]), strengths="0.2", controls=True, positive=text, negative=text,
        latent_image={"samples": torch.zeros(2, 16, 16, 16)}, seed=4, steps=STEPS, cfg=1.0, sampler_name="euler",
        scheduler="simple", denoise=1.0, location="auto", stream="auto",
    )  # fmt: skip
    shown = ("JPEG", (min(most, 3), 16, 16, 16))
    assert told == [(done, 3 * STEPS, shown) for done in bar(3, most)]


def test_a_calibration_tells_every_step_of_the_most_it_may_take(node_classes, shapes, text, told, monkeypatch) -> None:
    monkeypatch.setattr(memory, "MOST_RUNS", 1)
    run_node(
        node_classes["CalibrateStrength"], model=shapes[0], sae=shapes[2], features=FeatureList([Edit(31)]),
        positive=text, latent_image=LATENT, seed=4, steps=STEPS, method="add", location="auto", stream="auto",
    )  # fmt: skip
    notebooks().of(shapes[2]).ranges_path.unlink()
    assert 2 * STEPS < len(told) <= (1 + MOST_READINGS) * STEPS
    assert told == [(step, (1 + MOST_READINGS) * STEPS, None) for step in range(1, len(told) + 1)]


def test_labelling_tells_every_step_of_all_words(node_classes, shapes, told, most) -> None:
    words, contexts = ["red", "blue", "big"], ["{} square", "{} circle"]
    run_node(
        node_classes["LabelFeatures"], model=shapes[0], clip=shapes[5], sae=shapes[2], latent_image=LATENT,
        words="\n".join(words), contexts="\n".join(contexts), threshold=0.85, seed=0, steps=STEPS, location="auto",
        stream="auto",
    )  # fmt: skip
    notebooks().labels_path(fingerprint(shapes[2])).unlink()
    runs = len(words) * len(contexts)
    assert told == [(done, runs * STEPS, None) for done in bar(runs, most)]
