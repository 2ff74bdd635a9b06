"""InspectSAE: what it says of an SAE, and whether its verdict is right."""

from __future__ import annotations

import hashlib

import comfy.model_management
import pytest
import torch

from sae_steering_pack.sae.demo.shipped_weights import SAE_NAMES, WEIGHTS
from tiny_flux import make_sae, run_node

LATENT = {"samples": torch.zeros(1, 16, 16, 16)}
# right site -> sites nearby that share much of the residual stream, and others
WRONG = {
    "transformer_blocks.0 (text)": [
        ("transformer_blocks.1", "text"),
        ("transformer_blocks.0", "image"),
        ("transformer_blocks.0.update", "text"),
        ("single_transformer_blocks.0", "text"),
    ],
    "transformer_blocks.1.attn (image)": [
        ("transformer_blocks.0.attn", "image"),
        ("transformer_blocks.1", "image"),
        ("transformer_blocks.1.attn", "text"),
    ],
    "transformer_blocks.1 (image)": [
        ("transformer_blocks.0", "image"),
        ("single_transformer_blocks.0", "image"),
        ("transformer_blocks.1.ff", "image"),
    ],
}


@pytest.fixture(scope="module")
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture(scope="module")
def prompt(node_classes):
    return node_classes["ShapesPrompt"].execute("red square left big white").result[0]


@pytest.fixture
def inspect(node_classes):
    def run(sae, **inputs):
        given = {"sae": sae, "location": "auto", "stream": "auto", "seed": 0, "steps": 4}
        return run_node(node_classes["InspectSAE"], **{**given, **inputs}).result[0]

    return run


@pytest.mark.parametrize("number", range(3))
def test_the_facts_are_those_of_the_file(inspect, shapes, number):
    sae, name = shapes[2 + number], SAE_NAMES[number]
    lines = dict(line.split("  ", 1) for line in inspect(sae).splitlines() if "  " in line)
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    weights = WEIGHTS / name / "model.safetensors"
    assert facts["fingerprint (SHA-256)"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert facts["layout"] == "RE-N-Y TopK" and facts["width (d_in)"] == "128"
    assert facts["features (d_sae)"] == str([256, 512, 1024][number])
    assert facts["site"] == str(sae.site)
    assert facts["statistics"].startswith("mean, max, density over")


@pytest.mark.parametrize("number", range(3))
def test_the_right_site_fits(inspect, shapes, prompt, number):
    sae = shapes[2 + number]
    report = inspect(sae, model=shapes[0], positive=prompt, latent_image=LATENT)
    assert report.splitlines()[-1].startswith(f"This SAE fits this model at {sae.site}: it explains ")


@pytest.mark.parametrize(
    ("number", "location", "stream"),
    [(number, *place) for number, places in enumerate(WRONG.values()) for place in places],
)
def test_other_sites_do_not_fit(inspect, shapes, prompt, number, location, stream):
    sae = shapes[2 + number]
    report = inspect(sae, model=shapes[0], positive=prompt, latent_image=LATENT, location=location, stream=stream)
    assert report.splitlines()[-1].startswith("This SAE does not fit this model at ")


def test_a_neighbour_is_named_as_the_right_place(inspect, shapes, prompt):
    report = inspect(
        shapes[2], model=shapes[0], positive=prompt, latent_image=LATENT, location="transformer_blocks.1", stream="text"
    )
    assert "at transformer_blocks.0 (text); use that location." in report


def test_another_width_is_told(inspect, shapes, prompt):
    report = inspect(make_sae(width=256), model=shapes[0], positive=prompt, location="transformer_blocks.0")
    assert report.endswith("does not fit this model: its width is 256, but the model's is 128.")


def test_model_and_prompt_belong_together(inspect, shapes, prompt):
    with pytest.raises(ValueError, match=r"^positive: the self-test needs it beside model"):
        inspect(shapes[2], model=shapes[0])
    with pytest.raises(ValueError, match=r"^model: the self-test needs it beside positive"):
        inspect(shapes[2], positive=prompt)


def test_the_model_stays_as_it_was_and_cancel_ends_the_test(inspect, shapes, prompt):
    model = shapes[0]
    before = {key: dict(value) if isinstance(value, dict) else value for key, value in model.model_options.items()}
    inspect(shapes[2], model=model, positive=prompt, latent_image=LATENT)
    assert model.model_options.keys() == before.keys() and not model.wrappers.get("apply_model")
    hooks = [hook for module in model.model.modules() for hook in module._forward_hooks]
    assert hooks == []
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        inspect(shapes[2], model=model, positive=prompt, latent_image=LATENT)
    assert [hook for module in model.model.modules() for hook in module._forward_hooks] == []


def test_without_a_latent_a_small_picture_is_drawn(inspect, shapes, prompt):
    report = inspect(shapes[2], model=shapes[0], positive=prompt, steps=1)
    assert "fired on none of the 5 tokens of this test" in report  # the prompt's five words
