"""Places that a run never reaches are told: modules that a fused kernel bypasses, blocks that a model leaves out."""

from __future__ import annotations

import logging

import pytest
import torch

from fused import fused, without_last
from sae_steering_pack.sae.places.moment import Schedule
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import conditioning, latent, make_sae, relative_difference, run_node, sample, steer

STEERED = "sae_steering_pack.nodes.steer.steered_run.show_on_node"

ATTENTION = "transformer_blocks.1.attn"
BYPASSED = (
    "{} was never reached in this run, so nothing was {} there: the block ran without calling it, as with weights that "
    "run in a fused kernel; use the block's output instead, {}."
)
LEFT_OUT = (
    "{} was never reached in this run, so nothing was {} there: the model leaves the block out or ignores patches "
    "there; use another block."
)
PLACES = {
    "transformer_blocks.1.attn (image)": lambda flux: flux.double_blocks[1].img_attn.proj,
    "transformer_blocks.1.attn (text)": lambda flux: flux.double_blocks[1].txt_attn.proj,
    "transformer_blocks.1.ff (image)": lambda flux: flux.double_blocks[1].img_mlp,
    "transformer_blocks.1.ff_context (text)": lambda flux: flux.double_blocks[1].txt_mlp,
    "single_transformer_blocks.1.attn (joint)": lambda flux: flux.single_blocks[1].linear2,
}


@pytest.fixture
def flux(model):
    return model.model.diffusion_model


def reported(model, sae, place, stream="auto", run=None, **more):
    """The latent of a steered run and its summary."""
    reports = []
    drawn = sample(steer(model, sae, place, stream, report=reports.append, **more), **(run or {}))
    assert len(reports) == 1
    return drawn, reports[0]


@pytest.mark.parametrize("place", PLACES)
def test_a_bypassed_module_is_named(model, flux, sae, place):
    location, stream = place.rstrip(")").split(" (")
    plain = sample(model)
    steered, summary = reported(model, sae, location, stream)
    assert relative_difference(steered, plain) > 1e-3 and summary.unreached == ()
    with fused(PLACES[place](flux)):
        assert torch.equal(sample(model), plain)
        steered, summary = reported(model, sae, location, stream)
    assert torch.equal(steered, plain)
    block = location.rsplit(".", 1)[0]
    assert summary.steps == 0 and summary.unreached == (BYPASSED.format(place, "steered", block),)
    assert summary.warnings == list(summary.unreached)


def test_only_the_bypassed_block_of_several_is_named(model, flux, sae):
    with fused(flux.double_blocks[1].img_attn.proj):
        steered, summary = reported(model, sae, "transformer_blocks.0-1.attn", strength=0.3)
        alone, quiet = reported(model, sae, "transformer_blocks.0.attn", strength=0.3)
        _, at_output = reported(model, sae, "transformer_blocks.1", strength=0.3)
    assert torch.equal(steered, alone) and summary.steps == 2
    assert summary.unreached == (BYPASSED.format(f"{ATTENTION} (image)", "steered", "transformer_blocks.1"),)
    assert quiet.unreached == at_output.unreached == () and at_output.steps == 2


@pytest.mark.parametrize("point", ["", ".update", ".attn"])
def test_a_block_that_the_model_leaves_out_is_named(model, flux, sae, point):
    with without_last(flux.single_blocks):
        _, summary = reported(model, sae, f"single_transformer_blocks.0-2{point}", strength=0.3)
    assert summary.steps == 2
    assert summary.unreached == (LEFT_OUT.format(f"single_transformer_blocks.2{point} (joint)", "steered"),)


def test_a_patch_that_leaves_the_block_out_now_and_then_is_not_reported(model, sae):
    """Skip-layer guidance: one call with the block, one without it."""
    calls, skipping = [], model.clone()

    def every_second_time(args, extra):
        calls.append(1)
        return args if len(calls) % 2 else extra["original_block"](args)

    skipping.set_model_patch_replace(every_second_time, "dit", "double_block", 1)
    _, summary = reported(skipping, sae, ATTENTION, strength=0.3)
    assert len(calls) == 2 and summary.steps == 1 and summary.unreached == ()


@pytest.mark.parametrize("more", [{"schedule": Schedule(1.0, 1.0)}, {"side": "uncond"}, {"strength": 0.0}], ids=str)
def test_what_was_left_alone_on_purpose_is_not_reported(model, sae, more):
    _, summary = reported(model, sae, ATTENTION, **more)
    assert summary.steps == 0 and summary.unreached == ()


def test_a_run_that_breaks_off_in_its_first_call_says_nothing(model, sae):
    def fail(args, extra):
        raise RuntimeError("no memory")

    broken, reports = model.clone(), []
    broken.set_model_patch_replace(fail, "dit", "double_block", 0)
    with pytest.raises(RuntimeError, match="no memory"):
        sample(steer(broken, sae, ATTENTION, report=reports.append))
    assert [report.unreached for report in reports] == [()]


def test_the_node_and_the_log_say_it(node_classes, model, flux, sae, monkeypatch, caplog):
    shown = []
    monkeypatch.setattr(STEERED, lambda node_id, report: shown.append(report))
    with fused(flux.double_blocks[1].img_attn.proj):
        node = run_node(
            node_classes["FluxActivationSteer"], model=model, sae=sae, features=FeatureList([Edit(3)]), method="add",
            strength=0.3, unit="token_norm", location=ATTENTION, stream="auto", start_percent=0.0, end_percent=1.0,
            apply_to="both",
        )  # fmt: skip
        sample(node.result[0])
    sentence = BYPASSED.format(f"{ATTENTION} (image)", "steered", "transformer_blocks.1")
    assert [(report["text"], report["warnings"]) for report in shown] == [
        (f"No step was steered at {ATTENTION} (image).", [sentence])
    ]
    logged = [record for record in caplog.records if sentence in record.getMessage()]
    assert [record.levelno for record in logged] == [logging.WARNING]


class Clip:
    """As much of a CLIP as LabelFeatures asks for."""

    def tokenize(self, text):
        return len(text)

    def encode_from_tokens_scheduled(self, tokens):
        return conditioning(tokens)


class Decoder:
    """A VAE's decode for SteeringSweep."""

    def decode(self, samples):
        return samples[:, :3].movedim(1, -1)


def inputs_of(node_id, sae):
    """Inputs of the nodes that read or steer while they sample themselves."""
    empty = {"samples": torch.zeros(1, 16, 8, 8)}
    features = FeatureList([Edit(3)])
    place = {"location": ATTENTION, "stream": "auto", "seed": 1}
    text = {"positive": conditioning()}
    add = {"features": features, "method": "add"}
    return {
        "TopActivatingFeatures": {**text, "latent_image": empty, "steps": 2, "count": 3, "rank_by": "mean"},
        "FeatureHeatmap": {
            **text, "features": features, "image": torch.zeros(1, 64, 64, 3), "latent": {"samples": latent()},
            "percent": 0.5, "steps": 1, "threshold": 0.3,
        },
        "LabelFeatures": {
            "clip": Clip(), "latent_image": empty, "words": "red, blue", "contexts": "{}", "threshold": 0.5, "steps": 1,
        },
        "CalibrateStrength": {**text, **add, "latent_image": empty, "steps": 1},
        "SteeringSweep": {
            **text, **add, "negative": conditioning(), "vae": Decoder(), "latent_image": empty, "unit": "token_norm",
            "strengths": "0.2", "controls": False, "steps": 1, "cfg": 1.0, "sampler_name": "euler",
            "scheduler": "simple", "denoise": 1.0,
        },
    }[node_id] | place | {"sae": sae}  # fmt: skip


READ = ["TopActivatingFeatures", "FeatureHeatmap", "LabelFeatures"]


@pytest.mark.parametrize("node_id", [*READ, "CalibrateStrength", "SteeringSweep"])
def test_nodes_that_sample_themselves_stop_with_one_sentence(node_classes, model, flux, node_id):
    sae = make_sae(name="unreached")
    done = "read" if node_id in READ else "steered"
    sentence = f"location: {BYPASSED.format(f'{ATTENTION} (image)', done, 'transformer_blocks.1')}"
    with fused(flux.double_blocks[1].img_attn.proj), pytest.raises(ValueError, match=r"^location: ") as caught:
        run_node(node_classes[node_id], model=model, **inputs_of(node_id, sae))
    assert str(caught.value) == sentence


def test_a_reader_goes_on_with_the_blocks_that_it_reaches(node_classes, model, flux, caplog):
    def found(location):
        inputs = {**inputs_of("TopActivatingFeatures", make_sae()), "location": location}
        return run_node(node_classes["TopActivatingFeatures"], model=model, **inputs).result[0]

    with fused(flux.double_blocks[1].img_attn.proj):
        both = found("transformer_blocks.0-1.attn")
    assert BYPASSED.format(f"{ATTENTION} (image)", "read", "transformer_blocks.1") in caplog.text
    assert both == found("transformer_blocks.0.attn")


@pytest.mark.parametrize("place", [ATTENTION, "transformer_blocks.1"])
def test_the_self_test_tells_it_and_leaves_out_rivals_that_were_not_reached(node_classes, model, flux, place):
    """The block's output beside a bypassed attention, and the other way round."""
    here = place == ATTENTION
    with fused(flux.double_blocks[1].img_attn.proj):
        text = run_node(
            node_classes["InspectSAE"], sae=make_sae(), location=place, stream="image", seed=0, steps=1, model=model,
            positive=conditioning(), latent_image={"samples": torch.zeros(1, 16, 8, 8)},
        ).result[0]  # fmt: skip
    sentence = BYPASSED.format(f"{ATTENTION} (image)", "read", "transformer_blocks.1")
    assert (sentence in text) == here and (f"This SAE cannot be tested at {ATTENTION} (image)" in text) == here
