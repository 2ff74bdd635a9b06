"""Steering in ComfyUI against the same steering by plain forward hooks in diffusers, at every place."""

from __future__ import annotations

import pytest
import torch

from flux_pair import WIDTH, comfy_velocity, diffusers_velocity, inputs, make_model, make_transformer
from sae_steering_pack.sae.edits import Edit
from sae_steering_pack.sae.hosts import comfyui as host
from sae_steering_pack.sae.intervention import Intervention
from sae_steering_pack.sae.site import parse_location
from sae_steering_pack.sae.steering import Steering
from sae_steering_pack.sae.autoencoder import Architecture, SparseAutoencoder

TEXT, D_SAE, K = 5, 16, 8
EDITS = [Edit(3, 1.0), Edit(11, -0.5)]
# location, stream, diffusers' modules, and the slice of their output that the stream is
ALL, FIRST, REST = slice(None), slice(0, TEXT), slice(TEXT, None)
PLACES = [
    ("transformer_blocks.0", "text", ["transformer_blocks.0"], (0, ALL)),
    ("transformer_blocks.1", "image", ["transformer_blocks.1"], (1, ALL)),
    ("double_blocks.0-1", "image", ["transformer_blocks.0", "transformer_blocks.1"], (1, ALL)),
    ("transformer_blocks.0.attn", "image", ["transformer_blocks.0.attn"], (0, ALL)),
    ("transformer_blocks.1.attn", "text", ["transformer_blocks.1.attn"], (1, ALL)),
    ("transformer_blocks.0.ff", "image", ["transformer_blocks.0.ff"], (None, ALL)),
    ("transformer_blocks.0.ff_context", "text", ["transformer_blocks.0.ff_context"], (None, ALL)),
    ("single_transformer_blocks.1", "text", ["single_transformer_blocks.1"], (0, ALL)),
    ("single_transformer_blocks.1", "image", ["single_transformer_blocks.1"], (1, ALL)),
    ("single_transformer_blocks.0,2", "joint", ["single_transformer_blocks.0", "single_transformer_blocks.2"], "both"),
    ("single_transformer_blocks.0.attn", "joint", ["single_transformer_blocks.0.attn"], (None, ALL)),
    ("single_transformer_blocks.1.attn", "text", ["single_transformer_blocks.1.attn"], (None, FIRST)),
    ("single_transformer_blocks.2.attn", "image", ["single_transformer_blocks.2.attn"], (None, REST)),
]


@pytest.fixture(scope="module")
def transformer():
    return make_transformer()


@pytest.fixture(scope="module")
def model(transformer):
    return make_model(transformer, torch.float32)


@pytest.fixture(scope="module")
def tensors():
    random = torch.Generator().manual_seed(5)
    encoder = torch.randn(D_SAE, WIDTH, generator=random)
    return {"encoder": encoder, "decoder": encoder / 16, "output_bias": torch.randn(WIDTH, generator=random)}


@pytest.fixture(scope="module")
def sae(tensors):
    return SparseAutoencoder.from_tensors(tensors, Architecture("topk", k=K))


def codes_of(tensors, x):
    """TopK codes, dense: only the k largest pre-activations stay, and of these the positive ones."""
    before = x @ tensors["encoder"].T
    kth = before.sort(-1, descending=True).values[..., K - 1 : K]
    return torch.where(before >= kth, before, torch.zeros_like(before)).clamp(min=0)


def delta_of(method, tensors, x):
    """Closed formulas of the design, with dense codes."""
    f, directions = codes_of(tensors, x), tensors["decoder"]
    delta = torch.zeros_like(x)
    if method == "surgery":
        f = f.clone()
        for edit in EDITS:
            f[..., edit.feature] += 2.0 * edit.strength
        return f @ directions + tensors["output_bias"] - x
    for edit in EDITS:
        d, s = directions[edit.feature], 2.0 * edit.strength
        fk = f[..., edit.feature : edit.feature + 1]
        delta += {"add": s * d, "set": (s - fk) * d, "scale": (s - 1) * fk * d}[method]
    return delta


def hook_of(method, tensors, where):
    def hook(module, args, output):
        if where == "both":
            joint = torch.cat(output, dim=1)
            joint = joint + delta_of(method, tensors, joint)
            return joint[:, :TEXT], joint[:, TEXT:]
        index, part = where
        tensor = (output if index is None else output[index]).clone()
        tensor[:, part] += delta_of(method, tensors, tensor[:, part])
        if index is None:
            return tensor
        return tuple(tensor if i == index else other for i, other in enumerate(output))

    return hook


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def steered_model(model, sae, location, stream, method, strength=2.0, unit="raw", **bounds):
    steering = Steering(sae, EDITS, method, strength, unit)
    return host.steer(model, Intervention(steering, parse_location(location, stream), **bounds), lambda summary: None)


def test_the_two_models_agree_unsteered(model, transformer):
    given = inputs(batch=2)
    assert relative(comfy_velocity(model, *given), diffusers_velocity(transformer, *given)) < 1e-5


@pytest.mark.parametrize("method", ["add", "set", "scale", "surgery"])
@pytest.mark.parametrize(("location", "stream", "modules", "where"), PLACES, ids=lambda v: v if isinstance(v, str) else "")
def test_steering_equals_forward_hooks(model, transformer, sae, tensors, location, stream, modules, where, method):
    given = inputs(batch=2, text=TEXT)
    ours = comfy_velocity(steered_model(model, sae, location, stream, method), *given)
    hooks = [transformer.get_submodule(name).register_forward_hook(hook_of(method, tensors, where)) for name in modules]
    try:
        theirs = diffusers_velocity(transformer, *given)
    finally:
        for hook in hooks:
            hook.remove()
    assert relative(theirs, diffusers_velocity(transformer, *given)) > 1e-4  # it did something
    assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize("location", ["transformer_blocks.0.update", "single_transformer_blocks.1.update"])
def test_at_update_sites_the_sae_reads_output_less_input(model, transformer, sae, tensors, location):
    given, inputs_seen = inputs(), []
    module = transformer.get_submodule(location.removesuffix(".update"))

    def keep(module, args, kwargs):
        inputs_seen.append(kwargs["hidden_states"].clone())

    def change(module, args, output):
        text, image = output
        return text, image + delta_of("set", tensors, image - inputs_seen.pop())

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True), module.register_forward_hook(change)]
    try:
        theirs = diffusers_velocity(transformer, *given)
    finally:
        for hook in hooks:
            hook.remove()
    ours = comfy_velocity(steered_model(model, sae, location, "image", "set"), *given)
    assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize("text", [5, 11])
def test_text_of_two_lengths(model, transformer, sae, tensors, text):
    given = inputs(text=text)

    def change(module, args, output):
        return output + torch.cat([torch.zeros_like(output[:, :text]), delta_of("set", tensors, output[:, text:])], dim=1)

    hook = transformer.single_transformer_blocks[1].attn.register_forward_hook(change)
    try:
        theirs = diffusers_velocity(transformer, *given)
    finally:
        hook.remove()
    ours = comfy_velocity(steered_model(model, sae, "single_transformer_blocks.1.attn", "image", "set"), *given)
    assert relative(ours, theirs) < 1e-4
