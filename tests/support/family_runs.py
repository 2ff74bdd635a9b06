"""Runs of the tiny models of all families: plain, steered, and steered by a plain forward hook.

For the tests inside ComfyUI's Python; the pack is already imported there as `sae_steering_pack`.
"""

from contextlib import contextmanager
from functools import cache

import comfy.sample
import torch

import tiny_families
from sae_steering_pack.sae.dictionary.owner import TrainedOn
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.places.depth import Attention, Depth
from tiny_families import CASES
from tiny_flux import intervention, make_sae, sae_tensors


@cache
def tiny(name):
    return tiny_families.build(CASES[name])


def depth_by_hand(name):
    """What the table of tests says."""
    depth = CASES[name].depth
    return Depth(**{kind: tuple(Attention(*row) for row in found) if kind == "attentions" else found
                    for kind, found in depth.items()})  # fmt: skip


def sae_for(family, trained_on=None, **more):
    sae = make_sae(CASES[family].width, **more)
    sae.trained_on = trained_on or TrainedOn(family)
    return sae


def sample(name, model, steps=1, seed=3, positive=None, negative=None, cfg=1.0, latent=None):
    positive = positive or tiny_families.conditioning(CASES[name])
    empty = torch.zeros(latent or CASES[name].latent)
    noise = comfy.sample.prepare_noise(empty, seed)
    return comfy.sample.sample(
        model, noise, steps, cfg, "euler", "simple", positive, negative or positive, empty, disable_pbar=True, seed=seed
    )


def steer(name, model, place, report=None, **more):
    wanted = intervention(sae_for(name), place.location, place.stream, **more)
    return host.steer(model, [wanted], report or (lambda summary: None))


FEATURES = tuple(range(12))  # so many that at every place some fire


def scaled(x, read, factor):
    """x + (factor - 1) · Σ f · d over the features, by the SAE's own formulas."""
    tensors = sae_tensors(x.shape[-1])
    codes = ((read - tensors["input_bias"]) @ tensors["encoder"].T + tensors["encoder_bias"]).clamp(min=0)
    return x + (factor - 1) * codes[..., : len(FEATURES)] @ tensors["decoder"][: len(FEATURES)]


@contextmanager
def plain_hook(network, place, factor):
    """The same by hand: a forward hook on the module that the table of tests names."""
    module = network.get_submodule(place.module)
    kept, handles = {}, []

    def change(tokens):
        if place.as_map:
            return changed(tokens.movedim(1, -1)).movedim(-1, 1)
        return changed(tokens)

    def changed(tokens):
        flat = tokens.reshape(len(tokens), -1, tokens.shape[-1]).clone()
        before = kept.get("before", torch.zeros_like(flat))
        for start, end in place.spans:
            flat[:, start:end] = scaled(flat[:, start:end], (flat - before)[:, start:end], factor)
        return flat.view_as(tokens)

    def keep(module, args, kwargs):
        given = kwargs[place.given] if isinstance(place.given, str) else args[place.given]
        given = given.movedim(1, -1) if place.as_map else given
        kept["before"] = given.reshape(len(given), -1, given.shape[-1]).clone()

    def on_output(module, args, output):
        if place.output is None:
            return change(output)
        return tuple(change(part) if i == place.output else part for i, part in enumerate(output))

    def on_input(module, args):
        return (torch.cat([change(args[0][..., : place.columns]), args[0][..., place.columns :]], -1), *args[1:])

    def on_given(module, args, kwargs):
        if isinstance(place.given, str):
            return args, {**kwargs, place.given: change(kwargs[place.given])}
        return tuple(change(part) if i == place.given else part for i, part in enumerate(args)), kwargs

    if place.location.endswith(".update"):
        handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    if place.location.endswith(".input"):
        handles.append(module.register_forward_pre_hook(on_given, with_kwargs=True))
    elif place.columns:
        handles.append(module.register_forward_pre_hook(on_input))
    else:
        handles.append(module.register_forward_hook(on_output))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
