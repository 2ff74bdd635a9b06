"""The SAE's weights under ComfyUI's memory management, and nothing of ours that outlives a run."""

import copy
import gc
import weakref

import comfy.model_management
import pytest
import torch

from sae_steering_pack.sae.dictionary.weights import Part
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.steering import intervention as intervention_module
from tiny_flux import conditioning, intervention, make_sae, run_node, sample, steer

BLOCK = ("transformer_blocks.0", "image")
ATTENTION = ("transformer_blocks.1.attn", "image")
READS = {
    "add": [],
    "project_out": [],
    "set": ["encoder"],
    "scale": ["encoder"],
    "boost_if_active": ["encoder"],
    "surgery": ["encoder", "decoder"],
}


def managed(model):
    return [patcher.model for patcher in model.get_nested_additional_models()]


def loaded_parts():
    found = [entry.real_model() for entry in comfy.model_management.current_loaded_models if entry.real_model]
    return [module for module in found if isinstance(module, Part)]


@pytest.mark.parametrize("method", READS)
def test_only_what_a_method_reads_is_attached_and_read_from_the_file(model, method):
    sae = make_sae()
    steered = steer(model, sae, *BLOCK, method=method, strength=2.0, unit="raw")
    sample(steered, steps=1)
    assert sorted(sae.weights.materialised) == sorted(READS[method])
    assert {id(module) for module in managed(steered)} == {id(sae.part(part)) for part in READS[method]}
    assert managed(model) == []


def test_comfyui_loads_the_weights_with_the_model(model):
    sae = make_sae()
    steered = steer(model, sae, *BLOCK, method="scale", strength=2.0)
    comfy.model_management.load_models_gpu([steered, *steered.get_nested_additional_models()])
    part = sae.part("encoder")
    assert loaded_parts().count(part) == 1
    assert part.model_loaded_weight_memory == sum(p.numel() * p.element_size() for p in part.parameters())


def test_the_same_sae_in_several_nodes_and_branches_is_loaded_once(model):
    sae = make_sae()
    chain = steer(steer(model, sae, *BLOCK, method="scale"), sae, *ATTENTION, method="set", unit="raw")
    branch = steer(model, sae.at(None), *BLOCK, method="scale", strength=3.0)
    assert managed(chain) == managed(branch) == [sae.part("encoder")]
    for steered in (chain, branch, chain):
        sample(steered, steps=1)
        assert loaded_parts().count(sae.part("encoder")) == 1


def test_two_saes_are_both_managed(model):
    first, second = make_sae(), make_sae(k=8)
    chain = steer(steer(model, first, *BLOCK, method="scale"), second, *BLOCK, method="scale")
    assert managed(chain) == [first.part("encoder"), second.part("encoder")]


def test_clones_keep_steering_and_weights(model, sae):
    steered = steer(model, sae, *BLOCK, method="scale", strength=3.0)
    clone = steered.clone()
    assert managed(clone) == managed(steered)
    assert torch.equal(sample(clone), sample(steered))
    assert not torch.equal(sample(clone), sample(model))


def test_a_part_that_a_host_has_cast_computes_the_same(model, sae):
    steered = steer(model, sae, *BLOCK, method="scale", strength=3.0)
    expected = sample(steered)
    sae.part("encoder").to(torch.float64)
    assert torch.allclose(sample(steered), expected, atol=1e-5)


@pytest.fixture
def runs(monkeypatch):
    """Weak references to everything that a run's taps are: interventions with their caches, and records."""
    found, begin = [], intervention_module.Intervention.begin

    def remember(self, record, *window):
        active = begin(self, record, *window)
        found.extend(weakref.ref(thing) for thing in (active, active.steering, record))
        return active

    monkeypatch.setattr(intervention_module.Intervention, "begin", remember)
    return found


@pytest.mark.parametrize("broken", [False, True], ids=["finished", "broken"])
def test_nothing_of_a_run_outlives_it(model, sae, runs, broken):
    def stop(step, *args):
        if broken:
            raise RuntimeError("stop")

    steered = steer(model, sae, *BLOCK, method="surgery", mask=torch.ones(1, 64, 64))
    try:
        sample(steered, callback=stop)
    except RuntimeError:
        assert broken
    gc.collect()
    assert len(runs) == 3 and [reference() for reference in runs] == [None] * 3


def test_an_sae_is_freed_with_the_graph_that_used_it(model):
    sae = make_sae()
    steered = steer(model, sae, *BLOCK, method="surgery")
    sample(steered, steps=1)
    parts = [weakref.ref(sae.part("encoder")), weakref.ref(sae.part("decoder"))]
    del steered, sae
    gc.collect()
    comfy.model_management.cleanup_models()
    assert [part() for part in parts] == [None, None]
    assert not [entry for entry in comfy.model_management.current_loaded_models if entry.is_dead()]


def test_an_sae_that_outlives_its_graph_is_no_leak_for_comfyui(model, sae):
    """LoadSAE's output stays in ComfyUI's cache while the steered model goes."""
    steered = steer(model, sae, *BLOCK, method="scale", strength=2.0)
    sample(steered, steps=1)
    del steered
    gc.collect()
    assert not [entry for entry in comfy.model_management.current_loaded_models if entry.is_dead()]
    sample(steer(model, sae, *BLOCK, method="scale", strength=3.0), steps=1)
    assert loaded_parts().count(sae.part("encoder")) == 1


def test_an_intervention_keeps_no_caches_of_its_own(model, sae):
    """The object that the node holds is the same before and after a run."""
    steering = intervention(sae, *BLOCK, method="scale", strength=2.0)
    sample(host.steer(model, [steering], lambda summary: None))
    assert steering.steering._cache == {}


def snapshot(model, latent, prompt):
    options = copy.copy(model.model_options), copy.copy(model.model_options["transformer_options"])
    return (
        repr(options), repr(model.wrappers), repr(model.additional_models), latent["samples"].clone(), list(latent),
        prompt[0][0].clone(), prompt[0][1]["pooled_output"].clone(), list(prompt[0][1]),
    )  # fmt: skip


def equal(before, after):
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(before, after, strict=True))


def test_nodes_leave_their_inputs_alone(model, sae, node_classes):
    latent, prompt = {"samples": torch.zeros(1, 4, 8, 8)}, conditioning()
    mask = torch.ones(64, 64)
    before, weights = snapshot(model, latent, prompt), {k: v.clone() for k, v in model.model.state_dict().items()}
    features, *_ = run_node(
        node_classes["TopActivatingFeatures"], model=model, sae=sae, positive=prompt, latent_image=latent, seed=0,
        steps=1, count=3, rank_by="mean", location=BLOCK[0], stream="auto", baseline=None, mask=mask,
    ).result  # fmt: skip
    listed = list(features)
    steered = run_node(
        node_classes["FluxActivationSteer"], model=model, sae=sae, features=features, method="add", strength=0.3,
        unit="token_norm", location=BLOCK[0], stream="auto", start_percent=0.0, end_percent=1.0, apply_to="both",
        mask=mask,
    ).result[0]  # fmt: skip
    sample(steered, prompt)
    assert equal(before, snapshot(model, latent, prompt))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.model.state_dict().items())
    assert list(features) == listed and torch.equal(mask, torch.ones(64, 64))
