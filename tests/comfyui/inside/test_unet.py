"""UNets inside ComfyUI: against diffusers with the same weights, each place's own grid, areas, batches, refusals."""

import re

import comfy.supported_models
import comfy.utils
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

import nodes as core
import tiny_families
from family_runs import depth_by_hand, sae_for, sample, steer, tiny
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.hosts.comfyui.model import depth_of, family_of
from sae_steering_pack.sae.hosts.diffusers import depth_of as depth_in_diffusers
from sae_steering_pack.sae.hosts.diffusers import steer as steer_diffusers
from sae_steering_pack.sae.places.site import parse_location
from small_unet import call_of, hooked, small_unet
from tiny_families import CASES, UNETS, make
from tiny_flux import dense_codes, intervention, make_sae, relative_difference, sae_tensors

DOWN = "down_blocks.2.attentions.1"
UP = {"SDXL": "up_blocks.0.attentions.1"}
DIRECTION = sae_tensors(64)["decoder"][3]
UNIT = DIRECTION / DIRECTION.norm()


# Parity with diffusers


@pytest.fixture(scope="module", params=UNETS)
def pair(request):
    """diffusers' UNet and ComfyUI's with its weights, in fp32."""
    name, unet = request.param, small_unet(request.param)
    config = CASES[name].build().model_config
    model = make(type(config), **{**config.unet_config, "context_dim": unet.config.cross_attention_dim})
    names, weights = comfy.utils.unet_to_diffusers(model.model_config.unet_config), unet.state_dict()
    model.diffusion_model.load_state_dict({own: weights[theirs] for theirs, own in names.items() if theirs in weights})
    return name, unet, tiny_families.patcher(model)


def in_diffusers(unet, name, timestep):
    with torch.inference_mode():
        return unet(**call_of(name, 2, 10, 18, timestep)).sample


def predicted(model, unet, name, timestep=500):
    """The same prediction, out of the denoised latent that ComfyUI's model gives for a noisy one."""
    given = call_of(name, 2, 10, 18, timestep)
    sampling = model.get_model_object("model_sampling")
    sigma = sampling.sigma(torch.tensor([float(timestep)] * 2))
    noisy = given["sample"] * (sigma.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5
    more = {}
    if "added_cond_kwargs" in given:
        sizes = given["added_cond_kwargs"]["time_ids"]
        embedded = unet.add_time_proj(sizes.flatten()).reshape(len(sizes), -1)
        more["y"] = torch.cat([given["added_cond_kwargs"]["text_embeds"], embedded], dim=-1)
    options = {"cond_or_uncond": [0], "wrappers": model.wrappers, **model.model_options["transformer_options"]}
    text = given["encoder_hidden_states"]
    with torch.inference_mode():
        denoised = model.model.apply_model(noisy, sigma, None, text, None, options, **more)
    return (noisy - denoised) / sigma.view(-1, 1, 1, 1)


METHODS = {
    "add": (4.0, lambda x, read: x + 4 * DIRECTION),
    "scale": (-2.0, lambda x, read: x - 3 * codes(read)[..., 3:4] * DIRECTION),
    "set": (4.0, lambda x, read: x + (4 - codes(read)[..., 3:4]) * DIRECTION),
    "project_out": (0.5, lambda x, read: x - 0.5 * (read @ UNIT)[..., None] * UNIT),
}  # fmt: skip


def codes(x):
    tensors = sae_tensors(64)
    return ((x - tensors["input_bias"]) @ tensors["encoder"].T + tensors["encoder_bias"]).clamp(min=0)


def places(name):
    up = UP.get(name, "up_blocks.1.attentions.2")
    inside = [f"{DOWN}.transformer_blocks.0{point}" for point in ("", ".update", ".attn1", ".attn2", ".ff")]
    return [DOWN, f"{DOWN}.update", "mid_block.attentions.0.update", up, f"{up}.update", *inside]


@pytest.mark.parametrize("method", METHODS)
def test_steering_is_a_plain_hook_on_diffusers_own_module(pair, method):
    """At every kind of place: by hand in diffusers, our host there, ours in ComfyUI by either project's name."""
    name, unet, model = pair
    strength, change = METHODS[method]
    plain = in_diffusers(unet, name, 500)
    assert relative_difference(predicted(model, unet, name), plain) < 1e-5
    ours = {one.path: one.comfyui for one in depth_of(model).attentions}
    for location in places(name):
        with hooked(unet, location, change):
            expected = in_diffusers(unet, name, 500)
        wanted = intervention(sae_for(name), location, method=method, strength=strength, unit="raw")
        assert relative_difference(expected, plain) > 1e-4
        with steer_diffusers(unet, [wanted]):
            assert relative_difference(in_diffusers(unet, name, 500), expected) < 1e-5
        path = max((path for path in ours if location.startswith(path)), key=len)
        for written in (location, location.replace(path, ours[path])):
            here = intervention(sae_for(name), written, method=method, strength=strength, unit="raw")
            assert relative_difference(predicted(host.steer(model, [here], None), unet, name), expected) < 1e-5, written


def test_both_hosts_tell_the_same_places(pair):
    name, unet, model = pair
    assert depth_in_diffusers(unet) == depth_of(model) == depth_by_hand(name)


# Each place's own grid


def seen_at(name, model, location, **more):
    found = []
    observed = host.observe(model, parse_location(location), lambda x, moment: found.append((x.clone(), moment)), None)
    sample(name, observed, **more)
    return found


@pytest.mark.parametrize("name", UNETS)
def test_every_place_has_its_own_grid(name):
    """14 × 20 latent cells are 7 × 10, then 4 × 5, then 2 × 3 tokens."""
    grids = {"down_blocks.0": (14, 20), "down_blocks.1": (7, 10), "down_blocks.2": (4, 5)}
    for one in depth_of(tiny(name)).attentions:
        for location in (one.path, f"{one.path}.transformer_blocks.0.attn2"):
            [(x, moment)] = seen_at(name, tiny(name), location, latent=(1, 4, 14, 20))
            level = next((grid for start, grid in grids.items() if one.path.startswith(start)), moment.grid)
            assert moment.grid == level and x.shape == (1, level[0] * level[1], one.width)


def speckled(height, width, count=1):
    cells = (torch.rand(count, height, width, generator=torch.Generator().manual_seed(6)) > 0.6).float()
    return cells, cells.repeat_interleave(8, -2).repeat_interleave(8, -1)


def weights_by_hand(cells, step):
    """Means over squares of cells, of which the last reach over the edge and repeat what is there."""
    rows, columns = (-(-side // step) for side in cells.shape)
    found = torch.zeros(rows, columns)
    for row in range(rows):
        for column in range(columns):
            under = [
                cells[min(row * step + i, cells.shape[0] - 1), min(column * step + j, cells.shape[1] - 1)]
                for i in range(step) for j in range(step)
            ]  # fmt: skip
            found[row, column] = sum(under) / step**2
    return found.flatten()


def moved(name, location, mask, width=64, **more):
    """What steering adds at a place, (rows, tokens, width), with the moments."""
    sae = make_sae(width)
    sae.trained_on = None
    steered = host.steer(tiny(name), [intervention(sae, location, strength=1.0, unit="raw", mask=mask)], None)
    before, after = seen_at(name, tiny(name), location, **more), seen_at(name, steered, location, **more)
    return [(x - y, moment) for (x, moment), (y, _) in zip(after, before, strict=True)]


GRIDS = [
    ("Stable Diffusion 1", "down_blocks.0.attentions.1", 1, 32),
    ("Stable Diffusion 1", "up_blocks.2.attentions.0", 2, 32),
    ("Stable Diffusion 1", f"{DOWN}.transformer_blocks.0.ff", 4, 64),
    ("Stable Diffusion 1", "mid_block.attentions.0", 8, 64),
    ("SDXL", f"{DOWN}.update", 4, 64), ("SDXL", "down_blocks.1.attentions.0.transformer_blocks.0.attn1", 2, 32),
    ("SDXL", "mid_block.attentions.0.transformer_blocks.1.attn2", 4, 64),
]  # fmt: skip


@pytest.mark.parametrize(("name", "location", "step", "width"), GRIDS)
def test_a_mask_lies_over_the_grid_of_its_place(name, location, step, width):
    cells, mask = speckled(14, 18)
    [(delta, moment)] = moved(name, location, mask, width, latent=(1, 4, 14, 18))
    weights = weights_by_hand(cells[0], step)
    assert moment.image_tokens == len(weights) and 0 < weights.mean() < 1
    expected = weights[:, None] * sae_tensors(width)["decoder"][3]
    assert torch.allclose(delta[0], expected, atol=5e-4)  # differences of tokens some hundred long


def test_pictures_of_a_batch_have_their_own_masks_on_every_grid():
    cells, mask = speckled(16, 16, 2)
    for location, step in ((DOWN, 4), ("mid_block.attentions.0.transformer_blocks.0", 8)):
        [(delta, _)] = moved("Stable Diffusion 1", location, mask, latent=(2, 4, 16, 16))
        for row in range(2):
            expected = weights_by_hand(cells[row], step)[:, None] * DIRECTION
            assert torch.allclose(delta[row], expected, atol=2e-5)


def test_areas_are_crops_on_every_grid():
    """A prompt for 8 × 8 of 16 × 24 cells, from row 8 and column 4 on, with its part of the mask."""
    cells, mask = speckled(16, 24)
    area = core.ConditioningSetArea().append(tiny_families.conditioning(CASES["SDXL"]), 64, 64, 32, 64, 1.0)[0]
    for location, step in ((f"{DOWN}.update", 4), (f"{DOWN}.transformer_blocks.1.attn1", 4)):
        [(delta, moment)] = moved("SDXL", location, mask, latent=(1, 4, 16, 24), positive=area)
        assert moment.crops[0].top == 8 and moment.crops[0].left == 4
        expected = weights_by_hand(cells[0, 8:16, 4:12], step)[:, None] * DIRECTION
        assert torch.allclose(delta[0], expected, atol=2e-5)


def test_one_step_with_the_sampling_of_lcm_and_turbo():
    model = ModelSamplingDiscrete().patch(tiny("SDXL"), "lcm", False)[0]
    reports = []
    place = CASES["SDXL"].places[3]
    steered = steer("SDXL", model, place, reports.append, strength=0.3)
    assert relative_difference(sample("SDXL", steered, steps=1), sample("SDXL", model, steps=1)) > 1e-3
    assert (reports[0].steps, reports[0].warnings) == (1, [])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_changes_nothing_but_what_it_must(dtype):
    name, place = "SDXL", CASES["SDXL"].places[3]
    model = tiny_families.build(CASES[name])
    model.model.to(dtype)
    model.model.manual_cast_dtype, model.model.diffusion_model.dtype = None, dtype
    plain = sample(name, model)
    assert torch.equal(sample(name, steer(name, model, place, strength=0.0)), plain)
    found = sample(name, steer(name, model, place, strength=1.0))
    assert found.isfinite().all() and relative_difference(found, plain) > 1e-2
    assert torch.equal(sample(name, model), plain)


# Left out


def test_a_video_unet_is_refused_by_name():
    config = comfy.supported_models.SVD_img2vid
    model = make(
        config, image_size=32, use_checkpoint=False, use_spatial_transformer=True, legacy=False, in_channels=8,
        out_channels=4, model_channels=32, channel_mult=[1, 1], num_res_blocks=[1, 1], transformer_depth=[1, 1],
        transformer_depth_middle=1, transformer_depth_output=[1, 1, 1, 1], context_dim=64, num_heads=-1,
        num_head_channels=32, num_classes="sequential", adm_in_channels=768, use_temporal_resblock=True,
        extra_ff_mix_layer=True, use_spatial_context=True, merge_strategy="learned_with_images", merge_factor=0.5,
        video_kernel_size=[3, 1, 1],
    )  # fmt: skip
    message = "model: it is a UNetModel (SVD_img2vid), a video UNet, whose blocks mix its frames, but steering knows"
    with pytest.raises(ValueError, match=re.escape(message)):
        family_of(tiny_families.patcher(model))


def test_a_depth_model_on_a_unet_is_refused_by_name():
    model = make(comfy.supported_models.LotusD, **tiny("Stable Diffusion 2").model.model_config.unet_config)
    with pytest.raises(ValueError, match=r"model: it is a UNetModel \(Lotus\), but steering knows FLUX\.1"):
        family_of(tiny_families.patcher(model))


def test_places_of_two_widths_are_one_width_too_many():
    message = (
        "sae: tiny was trained on activations of width 64, but at down_blocks.1.attentions.0 this model has width 32"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        host.steer(tiny("SDXL"), [intervention(sae_for("SDXL"), "down_blocks.1.attentions.0")], None)


def test_codes_of_the_tests_are_those_of_the_sae():
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(dense_codes(x), make_sae().codes(x, range(48)), atol=1e-5)
