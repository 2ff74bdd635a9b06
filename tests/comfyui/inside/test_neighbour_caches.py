"""Steering beside nodes that skip steps: what is skipped is told, whichever node comes first."""

import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

from sae_steering_pack.sae.hosts.comfyui.steering import observe
from sae_steering_pack.sae.places.moment import Schedule
from sae_steering_pack.sae.places.site import parse_location
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import Watch, conditioning, run_node, sample, steer

BLOCK, LATER = ("transformer_blocks.0", "image"), ("single_transformer_blocks.1", "image")
STEPS = 6


def easy(model):
    return EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]


def lazy(model):
    return LazyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]


def as_function(model):
    """TeaCache's older way: a model function wrapper that calls the model at every other step."""
    cached, kept = model.clone(), []

    def teacache(apply, call):
        if len(kept) % 2:
            kept.append(kept[-1])
        else:
            kept.append(apply(call["input"], call["timestep"], **call["c"]))
        return kept[-1]

    cached.set_model_unet_function_wrapper(teacache)
    return cached


def first_block(model):
    """FBCache's way: the first block always runs, the others at every other step only."""
    cached, calls = model.clone(), []

    class Skip(Exception):
        pass

    def before_second(args, extra):
        if len(calls) % 2:
            raise Skip
        return extra["original_block"](args)

    def fbcache(executor, x, *args, **kwargs):
        calls.append(1)
        try:
            return executor(x, *args, **kwargs)
        except Skip:
            return torch.zeros_like(x)

    cached.set_model_patch_replace(before_second, "dit", "double_block", 1)
    cached.add_wrapper_with_key("diffusion_model", "fbcache", fbcache)
    return cached


CACHES = {"EasyCache": easy, "LazyCache": lazy, "a function wrapper": as_function}
NAMED = {"EasyCache": "easycache", "LazyCache": "lazycache", "a function wrapper": "teacache"}


def told(report):
    return [warning for warning in report.warnings if "skipped" in warning]


@pytest.mark.parametrize("sae_first", [True, False], ids=["steer, cache", "cache, steer"])
@pytest.mark.parametrize("name", CACHES)
def test_skipped_steps_are_counted_and_told(model, sae, name, sae_first):
    """The count of the report is that of the calls in which a block really ran."""
    reports, watch, cache = [], Watch("double", 1), CACHES[name]
    if sae_first:
        both = watch.on(cache(steer(model, sae, *BLOCK, report=reports.append)))
    else:
        both = steer(watch.on(cache(model)), sae, *BLOCK, report=reports.append)
    sample(both, steps=STEPS)
    ran = len(watch.tokens)
    assert 0 < ran < STEPS and reports[0].steps == ran
    (warning,) = told(reports[0])
    assert warning.startswith(
        f"{STEPS - ran} of {STEPS} steps were skipped, so nothing was steered there: another node"
    )
    assert NAMED[name].removeprefix("lazy") in warning
    sample(model, steps=STEPS)  # and nothing is left behind
    watch.tokens.clear()
    sample(watch.on(model), steps=STEPS)
    assert len(watch.tokens) == STEPS


def test_with_guidance_a_step_counts_once(model, sae):
    reports = []
    sample(
        as_function(steer(model, sae, *BLOCK, report=reports.append)),
        negative=conditioning(4), cfg=2.0, steps=STEPS,
    )  # fmt: skip
    assert reports[0].steps == STEPS / 2 and told(reports[0])[0].startswith("3 of 6 steps were skipped")


def test_a_block_that_is_skipped_by_itself_is_told(model, sae):
    """The first block runs in every step, those behind it do not."""
    reports = []
    chain = steer(steer(model, sae, *BLOCK, report=reports.append), sae, *LATER, report=reports.append)
    sample(first_block(chain), steps=STEPS)
    by_steps = {report.steps: told(report) for report in reports}
    assert by_steps.keys() == {6, 3} and by_steps[6] == []
    assert by_steps[3][0].startswith("3 of 6 steps were skipped")


def test_steps_that_are_not_steered_anyway_are_no_loss(model, sae):
    """The first step is always computed; the schedule ends with it."""
    reports = []
    sample(easy(steer(model, sae, *BLOCK, schedule=Schedule(0, 0.1), report=reports.append)), steps=STEPS)
    assert reports[0].steps == 1 and told(reports[0]) == []


def test_a_cache_that_skips_nothing_is_no_loss(model, sae):
    reports = []
    steered = steer(model, sae, *BLOCK, strength=0.3, report=reports.append)
    careful = EasyCacheNode.execute(steered, 0.0, 0.0, 1.0, False).args[0]
    assert torch.equal(sample(careful, steps=STEPS), sample(steered, steps=STEPS))
    assert reports[0].steps == STEPS and reports[0].warnings == []


def test_readers_say_it_in_the_log(model, sae, caplog):
    seen = []
    observed = observe(model, parse_location(*BLOCK), lambda x, moment: seen.append(moment.sigma), sae)
    sample(as_function(observed), steps=STEPS)
    assert len(seen) == 3 and "3 of 6 steps were skipped, so nothing was read there" in caplog.text


def test_the_node_shows_it_and_a_forward_that_was_replaced_later(node_classes, model, sae, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "sae_steering_pack.nodes.steer.steered_run.show_on_node", lambda node_id, report: shown.append(report)
    )
    steered = run_node(
        node_classes["FluxActivationSteer"], model=model, sae=sae, features=FeatureList([Edit(3)]), method="add",
        strength=0.3, unit="token_norm", location=BLOCK[0], stream="auto", start_percent=0.0, end_percent=1.0,
        apply_to="both",
    ).result[0]  # fmt: skip
    cached = easy(steered)
    cached.add_object_patch("diffusion_model.forward_orig", model.model.diffusion_model.forward_orig)
    sample(cached, steps=STEPS)
    warnings = " ".join(shown[0]["warnings"])
    assert "steps were skipped" in warnings and "replaced this model's forward pass" in warnings
    assert len(shown[0]["warnings"]) == len(set(shown[0]["warnings"]))
