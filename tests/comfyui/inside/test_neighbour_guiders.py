"""Sides of guidance beside all of core's guiders, which number their prompts each in its own way.

Expected: the guider's own formula, with each of its predictions sampled alone and steered or not, without guidance.
"""

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import BasicGuider, CFGGuider, DualCFGGuider, DualModelGuider
from comfy_extras.nodes_perpneg import PerpNeg, PerpNegGuider, perp_neg

import nodes as core
from tiny_flux import conditioning, relative_difference, sample, steer

BLOCK = ("transformer_blocks.0", "image")
STRENGTH = 0.4
POSITIVE, MIDDLE, NEGATIVE = conditioning(2), conditioning(5), conditioning(4, 9)  # a text of another length
SIDES = {
    "both": (1, 1, 1),
    "cond": (1, 0, 0),
    "uncond": (0, 0, 1),
    "opposite": (1, 0, -1),
}  # positive, others, negative


def steered(model, sae, side="both", **more):
    return steer(model, sae, *BLOCK, strength=STRENGTH, side=side, **more)


def draw(output, steps=1):
    """Samples with a guider node's output, as SamplerCustomAdvanced does."""
    guider, empty = output.args[0], torch.zeros(1, 16, 8, 8)
    noise = torch.randn(empty.shape, generator=torch.manual_seed(7))
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.linspace(1, 0, steps + 1)
    return guider.sample(noise, empty, sampler, sigmas, disable_pbar=True, seed=7)


def guided(kind, model):
    """A guider node's output for a model, and the formula of its denoised picture."""
    if kind == "basic":
        return BasicGuider.execute(model, POSITIVE), lambda pos, mid, neg: pos
    if kind == "cfg":
        return CFGGuider.execute(model, POSITIVE, NEGATIVE, 3.0), lambda pos, mid, neg: neg + 3 * (pos - neg)
    if kind == "perp-neg":
        return PerpNegGuider.execute(model, POSITIVE, NEGATIVE, MIDDLE, 3.0, 0.7), None
    if kind == "regular":
        formula = lambda pos, mid, neg: neg + 2 * (mid - neg) + 3 * (pos - mid)  # noqa: E731
    else:
        formula = lambda pos, mid, neg: neg + 2 * (mid + 3 * (pos - mid) - neg)  # noqa: E731
    return DualCFGGuider.execute(model, POSITIVE, MIDDLE, NEGATIVE, 3.0, 2.0, kind), formula


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", ["basic", "cfg", "regular", "nested"])
def test_each_prompt_is_steered_on_its_own_side(model, sae, kind, side):
    output, formula = guided(kind, steered(model, sae, side))
    signs = zip((POSITIVE, MIDDLE, NEGATIVE), SIDES[side], strict=True)
    alone = [sample(steer(model, sae, *BLOCK, strength=STRENGTH * sign), prompt, steps=1) for prompt, sign in signs]
    found, plain = draw(output), draw(guided(kind, model)[0])
    assert relative_difference(found, formula(*alone)) < 1e-5
    nothing = kind == "basic" and side == "uncond"
    assert torch.equal(found, plain) if nothing else relative_difference(found, plain) > 1e-2


@pytest.mark.parametrize("side", SIDES)
def test_the_third_prompt_of_perp_neg_is_on_no_side(model, sae, side):
    """Its formula is not linear, so it is computed in the noise's own numbers."""
    signs = dict(zip(("pos", "empty", "neg"), SIDES[side], strict=True))
    prompts = {"pos": POSITIVE, "empty": MIDDLE, "neg": NEGATIVE}
    format_ = model.model.latent_format
    pos, empty, neg = (
        format_.process_in(sample(steer(model, sae, *BLOCK, strength=STRENGTH * signs[name]), prompts[name], steps=1))
        for name in prompts
    )
    expected = format_.process_out(perp_neg(None, pos, neg, empty, 0.7, 3.0))
    assert relative_difference(draw(guided("perp-neg", steered(model, sae, side))[0]), expected) < 1e-4


@pytest.mark.parametrize("style", ["regular", "nested"])
@pytest.mark.parametrize("side", ["cond", "uncond"])
def test_areas_of_dual_cfg(model, sae, style, side):
    """Core copies an area's prompt, with its uuid, to the other lists: the list tells the side, and the place stays.

    Where the positive prompt of the picture's left half alone is steered, its negative one is as it was.
    """
    left = core.ConditioningSetArea().append(conditioning(3), 32, 64, 0, 0, 1.0)[0]
    seen = []

    def keep(executor, x, t, *args, **kwargs):
        out = executor(x, t, *args, **kwargs)
        options = args[3]
        seen.append((options["uuids"], options["cond_or_uncond"], out.clone()))
        return out

    def calls(model):
        seen.clear()
        watched = model.clone()
        watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", keep)
        draw(DualCFGGuider.execute(watched, POSITIVE + left, MIDDLE, NEGATIVE, 3.0, 2.0, style))
        found, prompts = {}, {}
        for uuids, numbers, out in seen:
            for uuid, number, picture in zip(uuids, numbers, out.chunk(len(numbers)), strict=True):
                found.setdefault(number, []).append(picture)
                prompts.setdefault(number, set()).add(uuid)
        return found, prompts

    plain, uuids = calls(model)
    changed, _ = calls(steered(model, sae, side))
    assert uuids[0] & uuids[1] & uuids[2]  # the area's prompt
    moved = {
        number: [not torch.equal(a, b) for a, b in zip(plain[number], changed[number], strict=True)] for number in plain
    }
    on = {"cond": 2, "uncond": 0}[side]
    assert moved == {number: [number == on] * 2 for number in (0, 1, 2)}


def dual(model, other, cfg=3.0):
    return DualModelGuider.execute(model, POSITIVE, cfg, other, NEGATIVE)


@pytest.mark.parametrize("shared", [True, False], ids=["one model twice", "two models"])
@pytest.mark.parametrize("side", SIDES)
def test_the_main_model_of_dual_model_is_steered_alone(model, load_flux, sae, side, shared):
    """The negative's model is called with the main one's wrappers."""
    other, reports = model if shared else load_flux(), []
    found = draw(dual(steered(model, sae, side, report=reports.append), other))
    positive = sample(steer(model, sae, *BLOCK, strength=STRENGTH * SIDES[side][0]), POSITIVE, steps=1)
    negative = sample(other, NEGATIVE, steps=1)
    assert relative_difference(found, negative + 3 * (positive - negative)) < 1e-5
    assert [report.steps for report in reports] == [int(SIDES[side][0] != 0)]


@pytest.mark.parametrize("side", SIDES)
def test_a_steered_model_on_both_inputs_of_dual_model_is_plain_guidance(model, sae, side):
    both = steered(model, sae, side)
    found = draw(dual(both, both.clone()))
    assert relative_difference(found, draw(CFGGuider.execute(both, POSITIVE, NEGATIVE, 3.0))) < 1e-6


def test_of_two_steers_the_one_that_the_negative_model_has_too_acts_on_both(model, sae):
    inner = steer(model, sae, *BLOCK, strength=STRENGTH)
    outer = steer(inner, sae, "transformer_blocks.1", "image", strength=0.2)
    positive, negative = sample(outer, POSITIVE, steps=1), sample(inner, NEGATIVE, steps=1)
    assert relative_difference(draw(dual(outer, inner)), negative + 3 * (positive - negative)) < 1e-5


def test_a_steered_negative_model_alone_is_told(model, sae):
    """Core calls it without its wrappers, so that nothing can be steered there."""
    reports, plain = [], draw(dual(model, model.clone()))
    assert torch.equal(draw(dual(model, steered(model, sae, report=reports.append))), plain)
    assert [(report.steps, [warning[:43] for warning in report.warnings]) for report in reports] == [
        (0, ["This model was run without its patches, as "])
    ]
    draw(dual(steered(model, sae), model, cfg=1.0))  # where the negative is not calculated there is nothing to tell
    assert len(reports) == 1


@pytest.mark.parametrize("side", ["cond", "both"])
def test_a_prompt_that_another_node_brings_is_on_no_known_side(model, sae, side):
    """The old Perp-Neg node calculates an empty prompt of its own, as the only list, which is number 0."""
    reports = []
    patched = PerpNeg.execute(steered(model, sae, side, report=reports.append), MIDDLE, 0.7).args[0]
    draw(CFGGuider.execute(patched, POSITIVE, NEGATIVE, 3.0))
    told = [warning.split(":")[0] for warning in reports[0].warnings]
    assert told == ([] if side == "both" else ["apply_to was not followed everywhere"]) and reports[0].steps == 1


def test_a_guider_without_the_names_of_cores_sides_is_told(model, sae):
    class Odd(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
            conds = [self.conds["red"], self.conds["blue"]]
            red, blue = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            return blue + 3 * (red - blue)

    def output(model):
        guider = Odd(model)
        guider.inner_set_conds({"red": POSITIVE, "blue": NEGATIVE})
        return type("Output", (), {"args": [guider]})

    reports = []
    assert torch.equal(draw(output(steered(model, sae, "cond", report=reports.append))), draw(output(model)))
    assert reports[0].steps == 0 and reports[0].warnings[0].startswith("apply_to was not followed everywhere")
    assert relative_difference(draw(output(steered(model, sae, report=reports.append))), draw(output(model))) > 1e-2
    assert reports[1].warnings == []
