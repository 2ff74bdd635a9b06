"""UNets beside other nodes: each against a plain forward hook, with the neighbour before and after the steer."""

from contextlib import contextmanager

import comfy.controlnet
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.model_patcher
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_attention_multiply import UNetCrossAttentionMultiply
from comfy_extras.nodes_freelunch import FreeU, FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel

import tiny_families
from family_runs import sample, tiny
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.places.site import parse_location
from tiny_families import CASES
from tiny_flux import intervention, make_sae, modules_with_hooks, random_for, relative_difference, sae_tensors

NAME, STRENGTH = "Stable Diffusion 1", 0.4
# place -> ComfyUI's module whose output it is, width
PLACES = {
    "down_blocks.2.attentions.1.update": ("input_blocks.8.1", 64),
    "mid_block.attentions.0": ("middle_block.1", 64),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1": ("input_blocks.1.1.transformer_blocks.0.attn1.to_out", 32),
    "mid_block.attentions.0.transformer_blocks.0.attn1": ("middle_block.1.transformer_blocks.0.attn1.to_out", 64),
    "up_blocks.1.attentions.2.transformer_blocks.0.attn2": (
        "output_blocks.5.1.transformer_blocks.0.attn2.to_out", 64,
    ),
    "up_blocks.1.attentions.0.transformer_blocks.0.ff": ("output_blocks.3.1.transformer_blocks.0.ff", 64),
}  # fmt: skip


@contextmanager
def plain_hook(model, location):
    """Each token moved along the direction by a part of its own length, wherever it lies and in whichever tile."""
    path, width = PLACES[location]
    direction = sae_tensors(width)["decoder"][3]
    unit = direction / direction.norm()

    def change(module, args, output):
        x = output.movedim(1, -1) if output.ndim == 4 else output
        length = (x - args[0].movedim(1, -1)) if location.endswith(".update") else x  # of what is read
        steered = x + STRENGTH * length.norm(dim=-1, keepdim=True) * unit
        return steered.movedim(-1, 1) if output.ndim == 4 else steered

    handle = model.model.diffusion_model.get_submodule(path).register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def steered_at(location, model, report=None, **more):
    sae = make_sae(PLACES[location][1])
    sae.trained_on = None
    wanted = intervention(sae, location, strength=STRENGTH, **more)
    return host.steer(model, [wanted], report or (lambda summary: None))


def guided(model, steps=2, **more):
    torch.manual_seed(3)  # HyperTile draws its tiles
    negative = tiny_families.conditioning(CASES[NAME], 5)
    return sample(NAME, model, steps=steps, negative=negative, cfg=3.0, **more)


def attention_replaced(model):
    """As IP-Adapters do: another node computes attention 2 of every block, and adds to it."""
    changed = model.clone()

    def replaced(q, k, v, extra):
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        return weights @ v + 0.3 * q

    for number in range(3, 6):
        changed.set_model_attn2_replace(replaced, "output", number)
    return changed


def lora(model):
    keys = ("input_blocks.8.1.transformer_blocks.0.attn2.to_v", "middle_block.1.transformer_blocks.0.attn1.to_q")
    weights = {
        f"diffusion_model.{key}.lora_{part}.weight": torch.randn(shape, generator=random_for(4)) * 0.3
        for key in keys
        for part, shape in (("up", (64, 2)), ("down", (2, 64)))
    }
    return comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0.0)[0]


NEIGHBOURS = {
    "none": lambda model: model,
    "FreeU": lambda model: FreeU.execute(model, 1.1, 1.2, 0.9, 0.2)[0],
    "FreeU V2": lambda model: FreeU_V2.execute(model, 1.1, 1.2, 0.9, 0.2)[0],
    "PAG": lambda model: PerturbedAttentionGuidance.execute(model, 2.0)[0],
    "SAG": lambda model: SelfAttentionGuidance.execute(model, 0.5, 2.0)[0],
    "HyperTile": lambda model: HyperTile.execute(model, 64, 2, 0, False)[0],
    "ToMe": lambda model: TomePatchModel.execute(model, 0.3)[0],
    "attention of another node": attention_replaced,
    "attention multiply": lambda model: UNetCrossAttentionMultiply.execute(model, 1.2, 0.8, 1.1, 0.9)[0],
    "deep shrink": lambda model: PatchModelAddDownscale.execute(
        model, 3, 2.0, 0.0, 1.0, True, "bicubic", "bicubic"
    )[0],
    "LoRA": lora,
}  # fmt: skip


@pytest.mark.parametrize("location", PLACES)
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_beside_other_nodes(name, location):
    model, neighbour, reports = tiny(NAME), NEIGHBOURS[name], []
    before = guided(neighbour(model))
    with plain_hook(model, location):
        expected = guided(neighbour(model))
    assert relative_difference(expected, before) > 1e-4
    for both in (
        steered_at(location, neighbour(model), reports.append), neighbour(steered_at(location, model, reports.append)),
    ):  # fmt: skip
        assert relative_difference(guided(both), expected) < 2e-5
    assert torch.equal(guided(neighbour(model)), before) and modules_with_hooks(model) == []
    assert all(report.steps and report.warnings == [] for report in reports)


class Control(comfy.controlnet.ControlBase):
    """A ControlNet that adds fixed numbers behind the blocks of SD."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        def some(channels, side):
            return torch.randn(1, channels, side, side, generator=random_for(11)).expand(len(x_noisy), -1, -1, -1)

        return {"middle": [some(64, 2)], "output": [some(64, 4), some(64, 4)], "input": []}

    def copy(self):
        return Control()


@pytest.mark.parametrize("location", PLACES)
def test_beside_a_controlnet(location):
    [[text, extra]] = tiny_families.conditioning(CASES[NAME])
    positive = [[text, {**extra, "control": Control(), "control_apply_to_uncond": True}]]
    model = tiny(NAME)
    before = guided(model, positive=positive)
    assert relative_difference(before, guided(model)) > 1e-4
    with plain_hook(model, location):
        expected = guided(model, positive=positive)
    assert relative_difference(guided(steered_at(location, model), positive=positive), expected) < 1e-5
    assert torch.equal(guided(model, positive=positive), before)


@pytest.mark.parametrize("location", [*PLACES][:3])
def test_sides_are_told_apart_whichever_stands_first(location):
    """Without guidance the negative prompt alone draws: steering of the positive side changes nothing then."""
    model, negative = tiny(NAME), tiny_families.conditioning(CASES[NAME], 5)
    for side, cfg in (("cond", 0.0), ("uncond", 1.0)):
        steered = steered_at(location, model, side=side)
        plain = sample(NAME, model, negative=negative, cfg=cfg)
        assert relative_difference(sample(NAME, steered, negative=negative, cfg=cfg), plain) < 1e-6
        assert relative_difference(guided(steered), guided(model)) > 1e-4


def test_a_mask_under_hypertile_lies_as_the_picture_does():
    """The tiles of an attention are laid together again before the region is steered."""
    location = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    mask = torch.zeros(1, 128, 128)
    mask[:, :40, 24:] = 1
    tiled, found = NEIGHBOURS["HyperTile"](tiny(NAME)), []

    def see(x, moment):
        found.append(x.clone())

    steered = steered_at(location, tiled, mask=mask, unit="raw")
    for model in (tiled, steered):
        torch.manual_seed(3)
        sample(NAME, host.observe(model, parse_location(location), see, None))
    moved = (found[1] - found[0])[0].view(16, 16, -1)
    assert moved[:5, 3:].norm(dim=-1).min() > 0.1 and not moved[5:].any() and not moved[:, :3].any()


def test_a_block_that_a_cache_leaves_out_is_told():
    """As DeepCache does: the middle of the network runs in every other call."""
    model, calls, reports = tiny(NAME), [], []
    kept = model.clone()

    def deep_cache(executor, *args, **kwargs):
        calls.append(executor.class_obj)
        network = executor.class_obj
        middle = network.middle_block
        if len(calls) % 2 == 0:
            network.middle_block = torch.nn.Identity()
            network.middle_block.forward = lambda x, *args, **kwargs: x
        try:
            return executor(*args, **kwargs)
        finally:
            network.middle_block = middle

    def without_middle(executor, x, *args, **kwargs):
        return deep_cache(executor, x, *args, **kwargs)

    kept.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "deepcache", without_middle)
    steered = steered_at("mid_block.attentions.0", kept, reports.append)
    monkey = comfy.ldm.modules.diffusionmodules.openaimodel
    plain = monkey.forward_timestep_embed

    def passing(ts, x, *args, **kwargs):
        return x if isinstance(ts, torch.nn.Identity) else plain(ts, x, *args, **kwargs)

    monkey.forward_timestep_embed = passing
    try:
        sample(NAME, steered, steps=6)
    finally:
        monkey.forward_timestep_embed = plain
    assert reports[0].steps == 3
