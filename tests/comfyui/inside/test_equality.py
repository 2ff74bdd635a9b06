"""Steering in ComfyUI equals the same steering by plain forward hooks in diffusers, at every place and stream."""

import pytest
import torch

from plain_hooks import hooked
from sae_steering_pack.sae.hosts import diffusers as diffusers_host
from sae_steering_pack.sae.steering.edits import Edit
from sae_steering_pack.sae.steering.steering_inputs import Gate
from tiny_flux import (
    PLACES,
    conditioning,
    dense_codes,
    intervention,
    latent,
    predict,
    predict_diffusers,
    relative_difference,
    sae_tensors,
    sample,
    sample_diffusers,
    steer,
)

SIGMA = 0.6
EXACT = 1e-4
SHIFT = 1e-2  # of what steering changes, itself as small as a thousandth of the prediction
SEEN = 1e-3  # least change that counts as steered, ten times what is allowed between the hosts
TWO = (Edit(3, 1.0, mean=2.0, density=0.5), Edit(8, -0.5, mean=1.0, density=0.25))
OUT = (Edit(18, mean=1.5, density=0.5), Edit(12, mean=0.5, density=1.0))
FAINT = (Edit(18, mean=0.12, density=0.5), Edit(12, mean=0.04, density=1.0))


def directions(features):
    return sae_tensors()["decoder"][list(features)]


def add_a_share_of_the_norm(x, read):
    d = directions((3, 8))
    units = d / d.norm(dim=1, keepdim=True)
    return x + 0.4 * read.norm(dim=-1, keepdim=True) * (units[0] - 0.5 * units[1])


def add_raw(x, read):
    return x + 4 * directions((3,))[0] - 2 * directions((8,))[0]


def hold(x, read):
    d, f = directions((3, 8)), dense_codes(read)[..., [3, 8]]
    return x + ((torch.tensor([5.0, -2.5]) - f) @ d)


def scale(x, read):
    d, f = directions((3, 8)), dense_codes(read)[..., [3, 8]]
    return x + (torch.tensor([3.0 - 1, -1.5 - 1]) * f) @ d


def boost(x, read):
    f = dense_codes(read)[..., [3, 8]]
    return x + ((f > 0) * torch.tensor([8.0, -4.0])) @ directions((3, 8))


def project_out(x, read):
    units = directions((3, 8)) / directions((3, 8)).norm(dim=1, keepdim=True)
    return x - (torch.tensor([1.0, -0.5]) * (read @ units.T)) @ units


def surgery(x, read):
    f = dense_codes(read)
    f[..., 3] += 4
    f[..., 8] -= 2
    return x + f @ sae_tensors()["decoder"] + sae_tensors()["output_bias"] - read


def swap(x, read):
    """Means over all tokens: 2·0.5 and 1·0.25 come in, 1.5·0.5 and 0.5·1 go out."""
    f = dense_codes(read)[..., [18, 12]]
    level = f.sum(-1, keepdim=True) / (0.75 + 0.5)
    come = level * (1.0 * directions((3,))[0] - 0.5 * 0.25 * directions((8,))[0])
    return x + 3 * (come - f @ directions((18, 12)))


def replace(x, read):
    """Where they fire half as strongly as their means 0.12 and 0.04 together; put in as `swap` does at just that."""
    f = dense_codes(read)[..., [18, 12]]
    height = f.sum(-1, keepdim=True) / (0.12 + 0.04)
    natural = (0.12 + 0.04) / (0.06 + 0.04)
    come = height.clamp(min=1) * natural * (1.0 * directions((3,))[0] - 0.5 * 0.25 * directions((8,))[0])
    return x + (height >= 0.5) * (come - f @ directions((18, 12)))


METHODS = {
    "add": (add_a_share_of_the_norm, {"method": "add", "strength": 0.4}),
    "add raw": (add_raw, {"method": "add", "strength": 4.0, "unit": "raw"}),
    "set": (hold, {"method": "set", "strength": 5.0, "unit": "raw"}),
    "scale": (scale, {"method": "scale", "strength": 3.0}),
    "boost_if_active": (boost, {"method": "boost_if_active", "strength": 8.0, "unit": "raw"}),
    "project_out": (project_out, {"method": "project_out", "strength": 1.0}),
    "surgery": (surgery, {"method": "surgery", "strength": 4.0, "unit": "raw"}),
    "swap": (swap, {"method": "swap", "strength": 3.0, "replaces": OUT}),
    "replace": (replace, {"method": "replace", "strength": 1.0, "replaces": FAINT}),
}
every_place = pytest.mark.parametrize(("location", "stream"), PLACES, ids=lambda value: value)
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def inputs():
    text, extra = conditioning()[0]
    return latent(10, 8, batch=2), SIGMA, text.expand(2, -1, -1), extra["pooled_output"].expand(2, -1)


def test_the_two_models_are_equal(model, transformer, inputs):
    """The largest difference between the hosts themselves bounds what the other tests can show."""
    assert relative_difference(predict(model, *inputs), predict_diffusers(transformer, *inputs)) < 1e-6


@every_method
@every_place
def test_a_prediction_equals_plain_hooks(model, transformer, sae, inputs, location, stream, method):
    change, settings = METHODS[method]
    with hooked(transformer, location, stream, change):
        expected = predict_diffusers(transformer, *inputs)
    steered = predict(steer(model, sae, location, stream, features=TWO, **settings), *inputs)
    plain = predict(model, *inputs)
    assert relative_difference(steered, expected) < EXACT
    assert relative_difference(plain, expected) > SEEN
    assert relative_difference(steered - plain, expected - plain) < SHIFT


@pytest.mark.parametrize(
    ("location", "stream"),
    [("transformer_blocks.0", "image"), ("transformer_blocks.0.attn", "text")],
    ids=lambda value: value,
)
def test_a_gate_equals_plain_hooks_in_both_hosts(model, transformer, sae, inputs, location, stream):
    """Δ at tokens where feature 12 fires above half of a mean with which about every second one does."""
    change, settings = METHODS["add"]
    seen = []
    with hooked(transformer, location, stream, lambda x, read: seen.append(dense_codes(read)[..., 12]) or x):
        predict_diffusers(transformer, *inputs)
    mean = 2 * 1.01 * float(seen[0].median())  # no token lies just there
    gate = Gate([Edit(12, mean=mean, density=0.5)], 0.5)

    def gated(x, read):
        fires = dense_codes(read)[..., 12:13] > 0.5 * mean
        assert 0 < int(fires.sum()) < fires.numel()
        return torch.where(fires, change(x, read), x)

    with hooked(transformer, location, stream, gated):
        expected = predict_diffusers(transformer, *inputs)
    plain = predict(model, *inputs)
    steered = predict(steer(model, sae, location, stream, features=TWO, gate=gate, **settings), *inputs)
    assert relative_difference(steered, expected) < EXACT
    assert relative_difference(plain, expected) > SEEN
    assert torch.equal(predict(model, *inputs), plain)
    with diffusers_host.steer(transformer, [intervention(sae, location, stream, features=TWO, gate=gate, **settings)]):
        assert relative_difference(predict_diffusers(transformer, *inputs), expected) < EXACT


@every_place
def test_the_diffusers_host_equals_plain_hooks_too(transformer, sae, inputs, location, stream):
    change, settings = METHODS["surgery"]
    with hooked(transformer, location, stream, change):
        expected = predict_diffusers(transformer, *inputs)
    steering = intervention(sae, location, stream, features=TWO, **settings)
    with diffusers_host.steer(transformer, [steering]) as record:
        steered = predict_diffusers(transformer, *inputs)
    assert relative_difference(steered, expected) < EXACT
    assert record.summary().steps == 1


@pytest.mark.parametrize("comfyui_name", ["double_blocks.0.img_attn", "double_blocks.0.img_attn.proj"])
def test_comfyui_names_mean_the_same_place(model, sae, inputs, comfyui_name):
    ours = predict(steer(model, sae, "transformer_blocks.0.attn", "image", strength=0.4), *inputs)
    assert torch.equal(predict(steer(model, sae, comfyui_name, strength=0.4), *inputs), ours)


@pytest.mark.parametrize(("location", "stream"), [PLACES[2], PLACES[8], PLACES[17]], ids=lambda value: value)
def test_a_sampled_latent_equals_plain_hooks(model, transformer, sae, location, stream):
    change, settings = METHODS["set"]
    steered = sample(steer(model, sae, location, stream, features=TWO, **settings))
    with hooked(transformer, location, stream, change):
        expected = sample_diffusers(transformer, conditioning())
    assert relative_difference(steered, expected) < EXACT
    assert relative_difference(sample(model), steered) > SEEN
