"""The table of neighbours: steering beside what other nodes do to the same model and prompts.

Each case is held against a plain forward hook on ComfyUI's own module, in the same run with the same neighbour, with
the neighbour before and after the steer; and without steering it is bit for bit what it was before.
"""

import gc
import threading
from contextlib import contextmanager
from functools import partial

import comfy.controlnet
import comfy.hooks
import comfy.lora
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod
from comfy_extras.nodes_model_merging import ModelAdd, ModelMergeSimple, ModelSubtract
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

import nodes as core
from tiny_flux import (
    conditioning,
    latent,
    modules_with_hooks,
    random_for,
    relative_difference,
    sae_tensors,
    sample,
    steer,
)

BLOCK, ATTENTION = "transformer_blocks.0", "transformer_blocks.1.attn"
MODULES = {BLOCK: "double_blocks.0", ATTENTION: "double_blocks.1.img_attn.proj"}
STRENGTH = 0.3
PICTURE = 16  # its tokens, 8 × 8 latent cells


@contextmanager
def plain_hook(model, location, strength=STRENGTH, picture=PICTURE):
    """Steering by hand: each of the picture's tokens moved along the direction by a part of its own length."""
    direction = sae_tensors()["decoder"][3]
    unit = direction / direction.norm()

    def change(module, args, output):
        image = output[0] if isinstance(output, tuple) else output
        steered = image.float() + strength * image.float().norm(dim=-1, keepdim=True) * unit
        steered = torch.cat([steered[:, :picture].to(image.dtype), image[:, picture:]], dim=1)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    handle = model.model.diffusion_model.get_submodule(MODULES[location]).register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def steered_at(location, sae, model, report=None):
    return steer(model, sae, location, "image", strength=STRENGTH, report=report)


def check(model, sae, location, neighbour=lambda model: model, draw=sample, limit=1e-5):
    """One line of the table: both orders at node time, and what is left afterwards."""
    beside, reports = neighbour(model), []
    before = draw(beside)
    with plain_hook(model, location):
        expected = draw(neighbour(model))
    assert relative_difference(expected, before) > 1e-3
    steering = partial(steered_at, location, sae, report=reports.append)
    for both in (steering(neighbour(model)), neighbour(steering(model))):
        assert relative_difference(draw(both), expected) < limit
    assert torch.equal(draw(neighbour(model)), before)
    assert modules_with_hooks(model) == []
    assert all(report.steps and report.warnings == [] for report in reports)


# What other nodes do to the model


def lora_weights(seed=3):
    """A LoRA of rank 2 for some layers of both kinds of blocks, in core's own names."""
    random, layers = (
        random_for(seed),
        ("double_blocks.0.img_attn.proj", "double_blocks.1.txt_mlp.0", "single_blocks.1.linear2"),
    )
    sizes = {
        "double_blocks.0.img_attn.proj": (128, 128),
        "double_blocks.1.txt_mlp.0": (512, 128),
        "single_blocks.1.linear2": (128, 640),
    }
    return {
        f"diffusion_model.{layer}.lora_{name}.weight": torch.randn(shape, generator=random) * 0.5
        for layer in layers
        for name, shape in (("up", (sizes[layer][0], 2)), ("down", (2, sizes[layer][1])))
    }


def with_lora(model):
    return comfy.sd.load_lora_for_models(model, None, lora_weights(), 1.0, 0.0)[0]


@pytest.fixture(scope="module")
def other(load_flux):
    """Another FLUX of the same shape."""
    flux, random = load_flux(), random_for(8)
    for weight in flux.model.parameters():
        weight.data += 0.3 * weight.std(unbiased=False) * torch.randn(weight.shape, generator=random)
    return flux


def guidance_without_layers(model):
    return SkipLayerGuidanceDiT.execute(model, 2.0, 0.0, 1.0, double_layers="1", single_layers="0").args[0]


def louder(model):
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 1.1)
    return patched


def always_guided(model):
    """The negative prompt is calculated without guidance too."""
    changed = model.clone()
    changed.disable_model_cfg1_optimization()
    return changed


MODELS = {
    "LoRA": (with_lora, sample),
    "two LoRAs": (lambda model: with_lora(with_lora(model)), sample),
    "skip-layer guidance": (guidance_without_layers, partial(sample, negative=conditioning(4), cfg=2.0)),
    "post-CFG function": (louder, partial(sample, negative=conditioning(4, 9), cfg=2.0)),
    "no CFG-1 shortcut": (always_guided, partial(sample, negative=conditioning(4))),
}


@pytest.mark.parametrize("location", MODULES)
@pytest.mark.parametrize("name", MODELS)
def test_beside_what_other_nodes_do_to_the_model(model, sae, name, location):
    neighbour, draw = MODELS[name]
    check(model, sae, location, neighbour, draw)


def merges(other):
    return {
        "merge": lambda model: ModelMergeSimple().merge(model, other, 0.6)[0],
        "add": lambda model: ModelAdd().merge(model, other)[0],
        "subtract": lambda model: ModelSubtract().merge(model, other, 0.3)[0],
    }


@pytest.mark.parametrize("name", ["merge", "add", "subtract"])
def test_beside_a_merge_as_its_first_model(model, other, sae, name):
    check(model, sae, BLOCK, merges(other)[name])


def test_a_merge_takes_no_steering_from_its_second_model(model, other, sae):
    reports = []
    steered = steered_at(BLOCK, sae, other, reports.append)
    assert torch.equal(
        sample(ModelMergeSimple().merge(model, steered, 0.6)[0]), sample(ModelMergeSimple().merge(model, other, 0.6)[0])
    )
    assert reports == []


# Prompts


class Control(comfy.controlnet.ControlBase):
    """A ControlNet that adds fixed numbers to the picture's tokens behind each block."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        tokens = torch.randn(1, PICTURE, 128, generator=random_for(11)).expand(len(x_noisy), -1, -1)
        return {"input": [tokens, tokens], "output": [2 * tokens, tokens]}

    def copy(self):
        return Control()


def controlled():
    [[text, extra]] = conditioning()
    return [[text, {**extra, "control": Control(), "control_apply_to_uncond": True}]]


def referring(method):
    reference = torch.randn(1, 16, 4, 4, generator=random_for(3))
    positive = conditioning(reference_latents=[reference])
    return FluxKontextMultiReferenceLatentMethod.execute(positive, method).args[0]


def masked():
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 24:] = 1
    return core.ConditioningSetMask().append(conditioning(3), mask, "default", 1.0)[0] + conditioning(2)


def hooked_lora():
    """A LoRA by a hook of the conditioning: other weights for this prompt alone."""
    hooks = comfy.hooks.create_hook_lora(lora=lora_weights(), strength_model=1.0, strength_clip=0.0)
    return comfy.hooks.set_hooks_for_conditioning(conditioning(2), hooks)


def timed():
    first = core.ConditioningSetTimestepRange().set_range(conditioning(2), 0.0, 0.5)[0]
    return first + core.ConditioningSetTimestepRange().set_range(conditioning(3, 9), 0.5, 1.0)[0]


PROMPTS = {
    "ControlNet": controlled,
    "reference latents, offset": lambda: referring("offset"),
    "reference latents, index": lambda: referring("index"),
    "mask of a prompt": masked,
    "hook of a prompt": hooked_lora,
    "two prompts, one after the other": timed,
    "1 text token": lambda: conditioning(2, 1),
    "40 text tokens": lambda: conditioning(2, 40),
    "two lengths": lambda: conditioning(2) + conditioning(3, 17),
}


@pytest.mark.parametrize("location", MODULES)
@pytest.mark.parametrize("name", PROMPTS)
def test_beside_prompts(model, sae, name, location):
    def draw(model):
        return sample(model, PROMPTS[name](), conditioning(4, 9), 2.0)

    check(model, sae, location, draw=draw)


# Samplers and latents


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
def test_beside_every_sampler(model, sae, sampler):
    """No sampler's steps count as skipped, whichever noise levels it calls the model at."""
    reports, made, sigmas = [], comfy.samplers.sampler_object(sampler), torch.linspace(1, 0, 4)
    if sampler == "dpm_adaptive":  # else it takes hundreds of steps
        made = comfy.samplers.ksampler(sampler, {"rtol": 50.0, "atol": 50.0})

    def draw(model):
        noise, prompt = torch.randn(1, 16, 8, 8, generator=random_for(7)), conditioning()
        return comfy.sample.sample_custom(
            model, noise, 1.0, made, sigmas, prompt, prompt, 0 * noise, disable_pbar=True, seed=7
        )

    with plain_hook(model, BLOCK):
        expected = draw(model)
    assert relative_difference(draw(steered_at(BLOCK, sae, model, reports.append)), expected) < 1e-5
    assert reports[0].steps >= 3 and reports[0].warnings == []


def drawn(model, picture, denoise=1.0, **more):
    return core.common_ksampler(
        model, 7, 3, 2.0, "euler", "simple", conditioning(2), conditioning(4), {"samples": picture, **more}, denoise
    )[0]["samples"]


LATENTS = {
    "img2img": partial(drawn, picture=latent(), denoise=0.6),
    "inpainting": partial(drawn, picture=latent(), noise_mask=torch.eye(64).unsqueeze(0)),
    "batch_index": partial(drawn, picture=torch.zeros(2, 16, 8, 8), batch_index=[3, 1]),
    "a batch of 3": partial(drawn, picture=latent(batch=3)),
}


@pytest.mark.parametrize("name", LATENTS)
def test_beside_latents(model, sae, name):
    check(model, sae, BLOCK, draw=LATENTS[name])


def test_a_picture_of_a_batch_is_the_one_that_batch_index_names(model, sae):
    """The noise of picture 3 of a batch, steered by itself."""
    steered, empty = steered_at(BLOCK, sae, model), torch.zeros(4, 16, 8, 8)
    alone = drawn(steered, empty[:1], batch_index=[3])
    assert relative_difference(alone[0], drawn(steered, empty)[3]) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float8_e4m3fn, 1e-5)]
)
def test_beside_weights_of_other_precision(load_flux, sae, dtype, limit):
    """fp8 is a precision of the weights; they are computed with in another."""
    check(load_flux(dtype), sae, BLOCK, limit=limit)


# Many, long, and at once


def test_20_steers_in_a_row_are_one_of_their_sum(model, sae):
    chain, reports = model, []
    for _ in range(20):
        chain = steer(chain, sae, BLOCK, "image", strength=0.25, unit="raw", report=reports.append)
    assert (
        relative_difference(sample(chain), sample(steer(model, sae, BLOCK, "image", strength=5.0, unit="raw"))) < 1e-5
    )
    assert [report.steps for report in reports] == [2] * 20


def test_unloading_between_runs_changes_nothing(model, sae):
    steered, plain = steer(model, sae, BLOCK, "image", method="scale", strength=3.0), sample(model)
    first = sample(steered)
    for _ in range(2):
        comfy.model_management.unload_all_models()
        assert torch.equal(sample(steered), first) and torch.equal(sample(model), plain)


def test_two_threads_sample_two_models_with_one_sae(load_flux, model, other, sae):
    """Threads as nodes of other packs start them; the SAE is read by whoever comes first."""
    steered = [steer(flux, sae, BLOCK, "image", method="scale", strength=3.0) for flux in (model, other)]
    found, ready = [[], []], threading.Barrier(2)

    def run(number):
        with torch.inference_mode():
            ready.wait()
            for _ in range(5):
                found[number].append(sample(steered[number]))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for flux, pictures in zip(steered, found, strict=True):
        expected = sample(flux)
        assert len(pictures) == 5 and all(torch.equal(picture, expected) for picture in pictures)


def test_200_runs_leave_nothing_behind(model, sae):
    """Counted in Python's objects and in tensors, after warming up."""
    mask = torch.ones(1, 32, 32)

    def grown(runs):
        for number in range(runs):
            strength = 1.0 + number % 7
            sample(
                steer(model, sae, BLOCK, "image", method="scale", strength=strength, mask=mask), steps=1, size=(4, 4)
            )
        gc.collect()
        objects = gc.get_objects()
        return len(objects), sum(1 for found in objects if isinstance(found, torch.Tensor))

    before, after = grown(20), grown(200)
    assert after[1] <= before[1] and after[0] - before[0] < 200
