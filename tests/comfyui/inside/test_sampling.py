"""Steering while ComfyUI's own samplers run: bit-identity, sides, sizes, precisions, schedules, Cancel, others."""

from __future__ import annotations

import comfy.model_management
import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from flux_pair import WIDTH, make_model, make_transformer
from sae_steering_pack.sae.autoencoder import Architecture, SparseAutoencoder
from sae_steering_pack.sae.edits import Edit
from sae_steering_pack.sae.hosts import comfyui as host
from sae_steering_pack.sae.intervention import Intervention, Schedule
from sae_steering_pack.sae.site import parse_location
from sae_steering_pack.sae.steering import Steering

BLOCK = ("transformer_blocks.0", "image")
ATTENTION = ("transformer_blocks.1.attn", "image")


@pytest.fixture(scope="module")
def model():
    return make_model(make_transformer(), torch.float32)


@pytest.fixture(scope="module")
def sae():
    encoder = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(5))
    return SparseAutoencoder.from_tensors({"encoder": encoder, "decoder": encoder / 16}, Architecture("topk", k=8))


def conditioning(text=5, seed=1, **extra):
    random = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 16, generator=random)
    return [[torch.randn(1, text, 64, generator=random), {"pooled_output": pooled, **extra}]]


def draw(
    model, height=6, width=8, batch=1, cfg=1.0, steps=3, sampler="euler", positive=None, negative=None, callback=None
):
    latent = torch.zeros(batch, 16, height, width)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(9))
    positive, negative = positive or conditioning(), negative or conditioning(7, 2)
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "simple", positive, negative, latent,
        callback=callback, disable_pbar=True, seed=4,
    )  # fmt: skip


def steer(
    model, sae, place=BLOCK, method="add", strength=0.5, unit="token_norm", reports=None, schedule=(0, 1), **bounds
):
    steering = Steering(sae, [Edit(3), Edit(11)], method, strength, unit)
    intervention = Intervention(steering, parse_location(*place), Schedule(*schedule), **bounds)
    return host.steer(model, intervention, (reports if reports is not None else []).append)


def hooks_in(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


@pytest.mark.parametrize("place", [BLOCK, ATTENTION, ("single_transformer_blocks.0.attn", "joint")])
@pytest.mark.parametrize(("method", "strength"), [("add", 0.0), ("scale", 1.0), ("project_out", 0.0)])
def test_zero_strength_is_bit_identical_and_says_so(model, sae, place, method, strength):
    reports = []
    steered = draw(steer(model, sae, place, method, strength, reports=reports))
    assert torch.equal(steered, draw(model))
    assert [report.steps for report in reports] == [0]


def test_a_steered_run_leaves_nothing_behind(model, sae):
    before, options = draw(model), repr(model.model_options)
    reports = []
    steered_model = steer(model, sae, ATTENTION, "set", 3.0, reports=reports)
    steered = draw(steered_model)
    assert not torch.equal(steered, before)
    assert torch.equal(draw(steered_model), steered)  # twice the same
    assert torch.equal(draw(model), before)
    assert repr(model.model_options) == options and not model.wrappers and not model.additional_models
    assert hooks_in(model) == 0
    assert [report.steps for report in reports] == [3, 3] and reports[0].mean_ratio > 0


def test_two_branches_do_not_touch_each_other_and_chained_nodes_both_act(model, sae):
    one, other = steer(model, sae, BLOCK), steer(model, sae, ATTENTION, strength=0.3)
    alone = draw(one), draw(other)
    assert torch.equal(draw(one), alone[0]) and torch.equal(draw(other), alone[1])
    both = draw(steer(one, sae, ATTENTION, strength=0.3))
    assert torch.equal(draw(one), alone[0])
    assert not torch.equal(both, alone[0]) and not torch.equal(both, alone[1])
    assert torch.equal(both, draw(steer(other, sae, BLOCK)))  # different places: the order does not matter


@pytest.mark.parametrize("steps", [3])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2s_ancestral"])
def test_half_of_the_schedule_goes_by_sigma(model, sae, sampler, steps):
    """The shift is 1, so the sigmas of three steps are 1, 2/3 and 1/3; second-order samplers call at more of them."""
    seen, reports = [], []

    def watch(executor, x, t, *args, **kwargs):
        seen.append(round(float(t[0]), 4))
        return executor(x, t, *args, **kwargs)

    watched = model.clone()
    watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    draw(steer(watched, sae, reports=reports, schedule=(0.0, 0.5)), steps=steps, sampler=sampler)
    assert reports[0].steps == len({sigma for sigma in seen if sigma > 0.5})
    draw(steer(watched, sae, reports=reports, schedule=(0.5, 1.0)), steps=steps, sampler=sampler)
    assert reports[1].steps == len({sigma for sigma in seen if sigma <= 0.5})


class Rows:
    """Keeps what leaves the steered block, by side of guidance, and says where it differs from the unsteered run."""

    def __init__(self):
        self.calls = []

    def on(self, model):
        watched = model.clone()

        def keep(args, extra):
            sides = args["transformer_options"]["cond_or_uncond"]
            parts = args["img"].clone().chunk(len(sides))  # before the block writes into it
            self.calls.append(dict(zip(sides, parts, strict=True)))
            return extra["original_block"](args)

        watched.set_model_patch_replace(keep, "dit", "double_block", 1)  # the block after the steered one
        return watched


@pytest.mark.parametrize("text", [5, 7], ids=["one call for both sides", "a call for each side"])
@pytest.mark.parametrize(("side", "changed"), [("both", {0, 1}), ("cond", {0}), ("uncond", {1}), ("opposite", {0, 1})])
def test_sides_of_guidance(model, sae, side, changed, text):
    plain, steered = Rows(), Rows()
    run = {"batch": 2, "cfg": 3.0, "steps": 1, "negative": conditioning(text, 2)}
    draw(plain.on(model), **run)
    draw(steer(steered.on(model), sae, side=side), **run)
    shifts = {}
    for before, after in zip(plain.calls, steered.calls, strict=True):
        shifts |= {number: (after[number] - before[number]) for number in before}
    assert {number for number, shift in shifts.items() if float(shift.abs().max()) > 0} == changed
    base = {number: value for call in plain.calls for number, value in call.items()}
    directions = sae.direction([3, 11])
    units = (directions / directions.norm(dim=1, keepdim=True)).sum(0)
    for number in changed:
        sign = -1 if side == "opposite" and number == 1 else 1
        expected = sign * 0.5 * base[number].norm(dim=-1, keepdim=True) * units
        assert torch.allclose(shifts[number], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(7, 5), (6, 9)])
def test_odd_sizes_and_a_mask_of_ones(model, sae, height, width):
    ones = torch.ones(1, height * 8, width * 8)
    whole = draw(steer(model, sae), height, width)
    assert whole.shape[-2:] == (height, width)
    assert torch.equal(draw(steer(model, sae, mask=ones), height, width), whole)
    assert torch.equal(draw(steer(model, sae, mask=0 * ones), height, width), draw(model, height, width))


def test_a_region_steers_its_own_tokens_only(model, sae):
    """5 × 7 latent cells are 3 × 4 tokens; the left half of the picture is the columns 0 and 1 (and 3/4 of a cell)."""
    mask = torch.zeros(1, 40, 56)
    mask[:, :, :32] = 1
    plain, steered = Rows(), Rows()
    draw(plain.on(model), 5, 7, steps=1)
    draw(steer(steered.on(model), sae, mask=mask), 5, 7, steps=1)
    shift = (steered.calls[0][0] - plain.calls[0][0]).abs().amax(-1).view(3, 4)
    assert (shift[:, :2] > 0).all() and (shift[:, 2:] == 0).all()


def test_reference_latents_stay_as_they_are(model, sae):
    reference = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(3))
    positive = conditioning(reference_latents=[reference])
    plain, steered = Rows(), Rows()
    draw(plain.on(model), steps=1, positive=positive)
    draw(steer(steered.on(model), sae), steps=1, positive=positive)
    shift = (steered.calls[0][0] - plain.calls[0][0]).abs().amax(-1)[0]
    assert shift.shape == (12 + 4,)
    assert (shift[:12] > 0).all() and (shift[12:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(sae, dtype):
    half = make_model(make_transformer(), dtype)
    half.set_model_compute_dtype(dtype)
    full = make_model(make_transformer(), torch.float32)
    reports = []
    shift = draw(steer(half, sae, reports=reports)) - draw(half)
    expected = draw(steer(full, sae)) - draw(full)
    assert float((shift - expected).norm() / expected.norm()) < (0.02 if dtype == torch.float16 else 0.15)
    assert reports[0].kept > 0.9 and not [w for w in reports[0].warnings if "rounded" in w]
    draw(steer(half, sae, strength=1e-5, reports=reports))
    assert [w for w in reports[1].warnings if "rounded" in w]


@pytest.mark.parametrize("cancel", [False, True], ids=["exception", "Cancel"])
def test_a_broken_run_leaves_the_model_as_it_was(model, sae, cancel):
    before, reports = draw(model), []

    def stop(step, *args):
        if step == 1 and not cancel:
            raise RuntimeError("the card is on fire")
        comfy.model_management.interrupt_current_processing(step == 1)

    expected = comfy.model_management.InterruptProcessingException if cancel else RuntimeError
    with pytest.raises(expected):
        draw(steer(model, sae, ATTENTION, reports=reports), steps=6, callback=stop)
    comfy.model_management.interrupt_current_processing(False)
    assert hooks_in(model) == 0
    assert [report.steps for report in reports] == [2]
    assert torch.equal(draw(model), before)


@pytest.mark.parametrize("place", [BLOCK, ("transformer_blocks.0.attn", "image")])
@pytest.mark.parametrize("ours_first", [True, False])
def test_a_foreign_patch_in_the_same_slot_runs_with_ours(model, sae, place, ours_first):
    def foreign(args, extra):
        out = extra["original_block"](args)
        return {**out, "txt": out["txt"] * 1.5}

    def with_foreign(given):
        patched = given.clone()
        patched.set_model_patch_replace(foreign, "dit", "double_block", 0)
        return patched

    foreign_alone, ours_alone = draw(with_foreign(model)), draw(steer(model, sae, place))
    both = draw(with_foreign(steer(model, sae, place)) if ours_first else steer(with_foreign(model), sae, place))
    # Ours changes the picture's tokens, the other one the text's: neither order matters, and both must show.
    assert torch.equal(both, draw(steer(with_foreign(model), sae, place)))
    assert not torch.equal(both, foreign_alone) and not torch.equal(both, ours_alone)


def test_a_patch_that_returns_its_arguments_skips_the_block_but_not_the_steering(model, sae):
    skipped = model.clone()
    skipped.set_model_patch_replace(lambda args, extra: args, "dit", "double_block", 0)
    reports = []
    steered = draw(steer(skipped, sae, reports=reports))
    assert reports[0].steps == 3 and not torch.equal(steered, draw(skipped))


def test_the_sae_is_loaded_by_comfyui_once_and_only_where_it_is_read(model, sae):
    assert steer(model, sae).get_nested_additional_models() == []
    reads = steer(model, sae, method="set", unit="raw")
    again = steer(reads, sae, ATTENTION, method="scale")
    assert [patcher.model for patcher in again.get_nested_additional_models()] == [sae.part("encoder")]
    both = steer(reads, sae, method="surgery").get_nested_additional_models()
    assert {id(patcher.model) for patcher in both} == {id(sae.part("encoder")), id(sae.part("decoder"))}
    draw(again)
    loaded = [entry.real_model() for entry in comfy.model_management.current_loaded_models]
    assert sum(module is sae.part("encoder") for module in loaded) == 1


def test_steering_added_and_changed_after_a_compiled_run_still_acts(model, sae):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    plain = draw(compiled)
    weak, strong = draw(steer(compiled, sae, strength=0.1)), draw(steer(compiled, sae, strength=0.5))
    assert not torch.equal(weak, plain) and not torch.equal(strong, weak)
    assert torch.allclose(strong, draw(steer(model, sae, strength=0.5)), atol=1e-4)
    assert torch.allclose(draw(compiled), plain, atol=1e-5)


def test_models_that_cannot_be_steered_are_told(model, sae):
    narrow = SparseAutoencoder.from_tensors(
        {"encoder": torch.randn(16, 64), "decoder": torch.randn(16, 64)}, Architecture("relu"), name="narrow"
    )
    with pytest.raises(ValueError, match=r"sae: narrow was trained on activations of width 64.*width 128"):
        steer(model, narrow)
    with pytest.raises(ValueError, match=r"location: transformer_blocks.2 names block 2, but .* 0 to 1"):
        steer(model, sae, ("transformer_blocks.2", "image"))
    other = model.clone()
    other.add_object_patch("diffusion_model", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="model: it is a Linear, but steering works inside FLUX"):
        steer(other, sae)


def test_known_hindrances_are_named(model):
    cached = model.clone()
    cached.model_options["transformer_options"]["easycache"] = object()
    assert "step cache" in host.host_warnings(cached)[0]
    assert host.host_warnings(model) == []
    replaced = model.clone()
    replaced.add_object_patch("diffusion_model.forward_orig", lambda *args: None)
    assert "forward pass" in host.host_warnings(replaced)[0]
