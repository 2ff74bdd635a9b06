"""A model's identity: other weights and any LoRA change it; a clone, a run and loading the file again do not."""

from __future__ import annotations

import time

import comfy.model_patcher
import comfy.sd
import pytest
import torch

from sae_steering_pack.sae.hosts.comfyui.model import identity_of
from tiny_flux import random_for, sample, steer

KEY = "diffusion_model.double_blocks.0.img_attn.proj.weight"
OTHER = "diffusion_model.single_blocks.1.linear2.weight"


def lora(seed=1, keys=(KEY,), rank=2, size=0.1):
    """A LoRA file's tensors, for weights of the tiny FLUX."""
    random, found = random_for(seed), {}
    for key in keys:
        name = key.removesuffix(".weight")
        width = 128 if key == KEY else 640
        found[f"{name}.lora_up.weight"] = torch.randn(128, rank, generator=random) * size
        found[f"{name}.lora_down.weight"] = torch.randn(rank, width, generator=random) * size
    return found


def with_lora(model, tensors, strength=1.0, load=comfy.sd.load_lora_for_models):
    return load(model, None, tensors, strength, 0.0)[0]


def test_the_same_file_loaded_twice_and_clones(model, load_flux) -> None:
    mine = identity_of(model)
    assert mine.startswith("Flux-")
    assert len(mine) == len("Flux-") + 16
    assert identity_of(load_flux()) == mine
    assert identity_of(load_flux(torch.bfloat16)) == mine
    clone = model.clone()
    clone.set_model_unet_function_wrapper(lambda f, kwargs: f(kwargs["input"], kwargs["timestep"], **kwargs["c"]))
    assert identity_of(clone) == mine


def test_steering_is_no_other_model(model, sae) -> None:
    assert identity_of(steer(model, sae, "transformer_blocks.1", "image")) == identity_of(model)


@pytest.mark.parametrize("name", [KEY, OTHER, "diffusion_model.double_blocks.1.txt_attn.norm.key_norm.weight"])
def test_one_other_weight_is_another_model(model, load_flux, name) -> None:
    other = load_flux()
    weight = dict(other.model.named_parameters())[name]
    weight.data += 0.05 * torch.randn(weight.shape, generator=random_for(3))
    assert identity_of(other) != identity_of(model)


@pytest.mark.parametrize("load", [comfy.sd.load_lora_for_models, comfy.sd.load_bypass_lora_for_models])
def test_a_lora_is_another_model(model, load) -> None:
    with_it = with_lora(model, lora(), load=load)
    others = [model, with_lora(model, lora(2), load=load), with_lora(model, lora(), 0.5, load)]
    others += [with_lora(model, lora(keys=[KEY, OTHER]), load=load), with_lora(with_it, lora(2), load=load)]
    found = [identity_of(with_it), *map(identity_of, others)]
    assert len(set(found)) == len(found)
    assert identity_of(with_it.clone()) == found[0]


def test_the_same_lora_on_the_same_file_loaded_again(model, load_flux) -> None:
    assert identity_of(with_lora(load_flux(), lora())) == identity_of(with_lora(model, lora()))


def test_a_merge_is_another_model(model, load_flux) -> None:
    other = load_flux()
    for weight in other.model.parameters():
        weight.data *= 1.1
    merges = []
    for ratio in (0.5, 0.25):
        merged = model.clone()
        for key, patch in other.get_key_patches("diffusion_model.").items():
            merged.add_patches({key: patch}, ratio, 1 - ratio)
        merges.append(merged)
    found = [identity_of(one) for one in (model, other, *merges, merges[0].clone())]
    assert len(set(found)) == 4
    assert found[4] == found[2]


def test_what_is_loaded_last_does_not_matter(load_flux) -> None:
    """A LoRA is written into the weights that clones share."""
    plain = load_flux()
    patched = with_lora(plain, lora(size=1.0))
    mine, theirs = identity_of(plain), identity_of(patched)
    before = dict(plain.model.named_parameters())[KEY].clone()
    sample(patched)
    assert not torch.equal(dict(plain.model.named_parameters())[KEY], before)  # it is in there now
    assert (identity_of(plain), identity_of(patched)) == (mine, theirs)
    sample(plain)
    assert (identity_of(plain), identity_of(patched)) == (mine, theirs)


def test_text_encoders_have_one_too() -> None:
    cpu, found = torch.device("cpu"), []
    for seed in (1, 1, 2):
        network = torch.nn.Linear(4, 4)
        network.weight.data = torch.randn(4, 4, generator=random_for(seed))
        network.bias.data = torch.zeros(4)
        found.append(identity_of(comfy.model_patcher.ModelPatcher(network, cpu, cpu)))
    assert found[0] == found[1] != found[2]
    assert found[0].startswith("Linear-")


class Unknown:
    """A patch that nobody can look into."""


def test_an_unknown_patch_is_another_model_and_its_clone_the_same(model) -> None:
    one, other = model.clone(), model.clone()
    patches = Unknown(), Unknown()
    one.add_patches({KEY: patches[0]})
    other.add_patches({KEY: patches[1]})
    assert len({identity_of(model), identity_of(one), identity_of(other)}) == 3
    assert identity_of(one.clone()) == identity_of(one)


def test_it_is_quick(model) -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        identity_of(model)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) / len(list(model.model.parameters())) < 1e-3  # a whole FLUX has 780
