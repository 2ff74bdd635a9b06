"""Steering while ComfyUI's own samplers run: bit-identity, sides, schedules, regions, precisions, Cancel."""

import comfy.model_management
import comfy.ops
import pytest
import torch
from comfy.ldm.flux.model import Flux
from comfy.patcher_extension import WrappersMP

from sae_steering_pack.sae.hosts.comfyui.steering import observe
from sae_steering_pack.sae.places.moment import Schedule
from tiny_flux import (
    Watch,
    conditioning,
    intervention,
    make_sae,
    modules_with_hooks,
    predict,
    relative_difference,
    sae_tensors,
    sample,
    steer,
)

BLOCK = ("transformer_blocks.0", "image")
ATTENTION = ("transformer_blocks.1.attn", "image")
JOINT = ("single_transformer_blocks.0.attn", "joint")


def inputs_of(model):
    """What must not change on a MODEL."""
    wrappers = {kind: {key: list(found) for key, found in keyed.items()} for kind, keyed in model.wrappers.items()}
    return repr(model.model_options), wrappers, dict(model.object_patches), dict(model.additional_models)


@pytest.mark.parametrize("place", [BLOCK, ATTENTION, JOINT], ids=lambda place: place[0])
@pytest.mark.parametrize(("method", "strength"), [("add", 0.0), ("scale", 1.0), ("project_out", 0.0)])
def test_no_strength_gives_the_unsteered_latent_bit_for_bit_and_says_so(model, sae, place, method, strength):
    reports = []
    steered = sample(steer(model, sae, *place, method, strength, report=reports.append))
    assert torch.equal(steered, sample(model))
    assert [report.steps for report in reports] == [0]


def test_a_steered_run_leaves_nothing_behind(model, sae):
    before, untouched, reports = sample(model), inputs_of(model), []
    steered_model = steer(model, sae, *ATTENTION, method="set", strength=9.0, unit="raw", report=reports.append)
    steered = sample(steered_model)
    assert not torch.equal(steered, before)
    assert torch.equal(sample(steered_model), steered)  # the same seed twice
    assert torch.equal(sample(model), before)
    assert inputs_of(model) == untouched
    assert modules_with_hooks(model) == []
    assert [report.steps for report in reports] == [2, 2]
    assert reports[0] == reports[1] and 0 < reports[0].mean_ratio <= reports[0].max_ratio


def test_two_branches_do_not_touch_each_other(model, sae):
    one, other = steer(model, sae, *BLOCK), steer(model, sae, *ATTENTION, strength=0.3)
    alone = sample(one), sample(other)
    assert not torch.equal(*alone)
    assert torch.equal(sample(one), alone[0]) and torch.equal(sample(other), alone[1])


def test_chained_nodes_both_act_and_each_reports_its_own(model, sae):
    reports = [], []
    one = steer(model, sae, *BLOCK, strength=0.3, features=[3], report=reports[0].append)
    alone = sample(one)
    both = sample(steer(one, sae, *BLOCK, strength=0.3, features=[5], report=reports[1].append))
    assert torch.equal(sample(one), alone) and not torch.equal(both, alone)
    assert [report.steps for report in reports[0]] == [2, 2, 2] and [report.steps for report in reports[1]] == [2]
    # In raw units edits add up, so that two nodes equal one with both features.
    raw = {"strength": 5.0, "unit": "raw"}
    chained = sample(steer(steer(model, sae, *BLOCK, features=[3], **raw), sae, *BLOCK, features=[5], **raw))
    assert relative_difference(chained, sample(steer(model, sae, *BLOCK, features=[3, 5], **raw))) < 1e-5


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2s_ancestral"])
def test_schedules_go_by_sigma_and_not_by_calls(model, sae, sampler):
    """The schedule has no shift: of three steps the sigmas are 1, 2/3 and 1/3; second-order samplers call at more."""
    seen, reports = [], []

    def watch(executor, x, t, *args, **kwargs):
        seen.append(round(float(t[0]), 4))
        return executor(x, t, *args, **kwargs)

    watched = model.clone()
    watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    for start, end in ((0.0, 0.5), (0.5, 1.0), (1.0, 1.0)):
        sample(
            steer(watched, sae, *BLOCK, schedule=Schedule(start, end), report=reports.append), sampler=sampler, steps=3
        )
    early = {sigma for sigma in seen if sigma > 0.5}
    late = set(seen) - early
    assert [report.steps for report in reports] == [len(early), len(late), 0]
    assert len(seen) / 3 >= (3 if sampler == "euler" else 5)


def test_half_of_a_run_continues_as_unsteered(model, sae):
    """Steering from the half on leaves the first step as it was: its denoised picture is the unsteered one."""
    seen = {}

    def see(name):
        return lambda step, denoised, x, steps: seen.setdefault(name, []).append(denoised)

    sample(model, callback=see("plain"), steps=4)
    sample(steer(model, sae, *BLOCK, schedule=Schedule(0.5, 1.0)), callback=see("late"), steps=4)
    equal = [torch.equal(a, b) for a, b in zip(seen["plain"], seen["late"], strict=True)]
    assert equal == [True, True, False, False]


@pytest.mark.parametrize("tokens", [6, 9], ids=["one call for both sides", "texts of two lengths"])
@pytest.mark.parametrize("side", ["both", "cond", "uncond", "opposite"])
def test_sides_of_guidance(model, sae, side, tokens):
    """One Euler step gives the denoised latent, where CFG is u + g (c - u); c and u are sampled alone, without CFG."""
    guidance, positive, negative = 3.0, conditioning(2), conditioning(4, tokens)
    run = {"steps": 1, "batch": 2, "size": (6, 8)}
    on_cond, on_uncond = {"both": (1, 1), "cond": (1, 0), "uncond": (0, 1), "opposite": (1, -1)}[side]

    def alone(prompt, sign):
        return sample(steer(model, sae, *BLOCK, strength=0.4 * sign), prompt, **run)

    cond, uncond = alone(positive, on_cond), alone(negative, on_uncond)
    steered = sample(steer(model, sae, *BLOCK, strength=0.4, side=side), positive, negative, guidance, **run)
    assert relative_difference(steered, uncond + guidance * (cond - uncond)) < 1e-5
    assert relative_difference(steered, sample(model, positive, negative, guidance, **run)) > 1e-2


@pytest.mark.parametrize("size", [(17, 13), (6, 9)], ids=str)
def test_odd_sizes(model, sae, size):
    """Odd latents are padded to whole tokens; a mask of ones is no mask, a mask of zeros no steering."""
    ones = torch.ones(1, size[0] * 8, size[1] * 8)
    whole = sample(steer(model, sae, *BLOCK), size=size)
    assert whole.shape[-2:] == size and relative_difference(whole, sample(model, size=size)) > 1e-2
    assert torch.equal(sample(steer(model, sae, *BLOCK, mask=ones), size=size), whole)
    assert torch.equal(sample(steer(model, sae, *BLOCK, mask=0 * ones), size=size), sample(model, size=size))


def shift_after(model, steered, watch=Watch, **run):
    """What steering added to the tokens that enter the watched block in the first call, (batch, tokens, width)."""
    plain, changed = watch(), watch()
    sample(plain.on(model), steps=1, **run)
    sample(changed.on(steered), steps=1, **run)
    return plain.tokens[0], changed.tokens[0] - plain.tokens[0]


@pytest.mark.parametrize(("kind", "text"), [("double", 0), ("single", 6)])
def test_a_region_steers_its_own_tokens_and_by_its_weights(model, sae, kind, text):
    """5 × 7 latent cells are 3 × 4 tokens. The mask is 1 on the two columns at the left and 0.5 on the third."""
    mask = torch.zeros(1, 40, 56)
    mask[:, :, :32], mask[:, :, 32:48] = 1, 0.5
    place = BLOCK if kind == "double" else ("single_transformer_blocks.0", "image")
    steered = steer(model, sae, *place, strength=0.2, mask=mask)
    before, shift = shift_after(model, steered, lambda: Watch(kind), size=(5, 7))
    before, shift = before[:, text:], shift[:, text:]
    share = (shift.norm(dim=-1) / before.norm(dim=-1)).view(3, 4)
    assert torch.allclose(share, torch.tensor([0.2, 0.2, 0.1, 0.0]).expand(3, 4), atol=1e-5)


def test_each_picture_of_a_batch_has_its_own_mask(model, sae):
    mask = torch.stack([torch.ones(64, 64), torch.zeros(64, 64)])
    _, shift = shift_after(model, steer(model, sae, *BLOCK, mask=mask), batch=2)
    assert (shift[0].norm(dim=-1) > 0).all() and (shift[1] == 0).all()


@pytest.mark.parametrize("place", [BLOCK, ("single_transformer_blocks.0", "joint")], ids=["double", "single"])
def test_reference_latents_stay_as_they_are(model, sae, place):
    """6 text tokens, 16 of the picture, 4 of the reference."""
    positive = conditioning(reference_latents=[torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(3))])
    kind = "double" if place == BLOCK else "single"
    _, shift = shift_after(model, steer(model, sae, *place), lambda: Watch(kind), positive=positive)
    changed = (shift[0].norm(dim=-1) > 0).tolist()
    assert changed == [True] * (16 if kind == "double" else 22) + [False] * 4


def test_a_flux_with_one_latent_cell_a_token(model, sae):
    """FLUX.2's patch size: 6 × 5 cells are 30 tokens, and the mask's columns are the cells'."""
    fine = Flux(
        in_channels=16, out_channels=16, vec_in_dim=16, context_in_dim=64, hidden_size=128, mlp_ratio=4.0, num_heads=1,
        depth=2, depth_single_blocks=1, axes_dim=[16, 56, 56], theta=10000, patch_size=1, qkv_bias=True,
        guidance_embed=False, txt_ids_dims=[], dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    for parameter in fine.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    other = model.clone()
    other.add_object_patch("diffusion_model", fine)
    mask = torch.zeros(1, 48, 40)
    mask[:, :, :16] = 1
    _, shift = shift_after(other, steer(other, sae, *BLOCK, mask=mask), size=(6, 5))
    assert ((shift[0].norm(dim=-1) > 0).view(6, 5)[0]).tolist() == [True, True, False, False, False]
    assert shift.shape[1] == 30


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(load_flux, model, sae, dtype):
    """Steering moves the latent as in fp32, and rounding is told where it eats the delta."""
    half, reports = load_flux(dtype), []
    half.set_model_compute_dtype(dtype)
    watch = Watch()
    assert sample(watch.on(half)).isfinite().all() and watch.tokens[0].dtype == dtype
    tokens, shift = shift_after(half, steer(half, sae, *BLOCK, strength=0.3, report=reports.append))
    unit = sae_tensors()["decoder"][3] / sae_tensors()["decoder"][3].norm()
    expected = 0.3 * tokens.float().norm(dim=-1, keepdim=True) * unit
    assert relative_difference(shift.float(), expected) < (0.002 if dtype == torch.float16 else 0.015)
    assert reports[0].kept > 0.9 and reports[0].warnings == []
    sample(steer(half, sae, *BLOCK, strength=1e-5, report=reports.append))
    assert reports[1].kept < 0.5 and "rounded away" in reports[1].warnings[0]


@pytest.mark.parametrize("kind", ["exception", "Cancel", "exception inside a block"])
def test_a_broken_run_leaves_the_model_as_it_was(model, sae, kind):
    before, untouched, reports = sample(model), inputs_of(model), []

    def fail(args, extra):
        extra["original_block"](args)
        raise RuntimeError("no memory")

    def stop(step, *args):
        if step == 1 and kind == "exception":
            raise RuntimeError("no disk")
        comfy.model_management.interrupt_current_processing(step == 1 and kind == "Cancel")

    steered = steer(model, sae, *ATTENTION, report=reports.append)
    if kind == "exception inside a block":
        steered.set_model_patch_replace(fail, "dit", "double_block", 1)
    try:
        with pytest.raises((RuntimeError, comfy.model_management.InterruptProcessingException)):
            sample(steered, steps=6, callback=stop)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert modules_with_hooks(model) == []
    assert inputs_of(model) == untouched
    assert [report.steps for report in reports] == [1 if kind == "exception inside a block" else 2]
    assert torch.equal(sample(model), before)


def test_the_report_tells_steps_and_size(model, sae):
    reports = []
    sample(steer(model, sae, *BLOCK, strength=0.25, report=reports.append), steps=3)
    sample(steer(model, sae, *BLOCK, strength=0.8, report=reports.append), steps=1)
    assert reports[0].steps == 3
    assert reports[0].mean_ratio == pytest.approx(0.25, rel=1e-4) == reports[0].max_ratio
    assert str(reports[0]) == "Steered 3 steps; mean ‖Δ‖/‖x‖ 0.25, at one token up to 0.25."
    assert str(reports[1]).startswith("Steered 1 step;") and "destroys the activation" in reports[1].warnings[0]


def test_both_sides_of_guidance_count_as_one_step(model, sae):
    reports = []
    run = {"positive": conditioning(2), "cfg": 2.0, "steps": 3}
    for tokens in (6, 9):
        sample(steer(model, sae, *BLOCK, report=reports.append), negative=conditioning(4, tokens), **run)
    assert [report.steps for report in reports] == [3, 3]


def test_a_call_outside_of_sampling_is_steered_too(model, sae):
    """As nodes do that call the model themselves."""
    text, extra = conditioning()[0]
    x = torch.randn(1, 16, 8, 8)
    given = (x, 0.7, text, extra["pooled_output"])
    assert relative_difference(predict(steer(model, sae, *BLOCK), *given), predict(model, *given)) > 1e-2


def test_observing_changes_nothing_and_sees_every_call(model):
    seen = []
    topk = make_sae(k=8)
    site = intervention(topk, "single_transformer_blocks.1", "joint").site
    observed = observe(model, site, lambda x, moment: seen.append((x.shape, moment.sigma)), topk)
    assert torch.equal(sample(observed, size=(5, 8)), sample(model, size=(5, 8)))
    assert seen == [((1, 6 + 12, 128), 1.0), ((1, 6 + 12, 128), 0.5)]
