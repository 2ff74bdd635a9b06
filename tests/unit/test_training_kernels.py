"""The kernels of a training step do what torch's own operations do. They run on a GPU, or in Triton's interpreter."""

import os
from importlib.util import find_spec

import pytest
import torch

from sae.training.config import TopKConfig
from sae.training.fast.reconstruction import reconstruct
from sae.training.sparse import choose_over_batch, choose_per_token, kept_codes, sum_rows
from sae.training.topk import TopKModel
from sae.training.trainer import adam, fastest_update, update, update_by_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are made
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
STEPS = 5


def trained(step, clip_norm):
    """A model and Adam's state after steps with gradients that do not depend on the weights."""
    model = TopKModel(TopKConfig(d_in=24, d_sae=64, k=4, steps=STEPS)).to(DEVICE)
    optimizer = adam(model, 1e-2)
    for number in range(1, STEPS + 1):
        random = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random).to(DEVICE) / 100
        step(model, optimizer, clip_norm, number)
    return model, optimizer.state_dict()["state"]


@needs_triton
@pytest.mark.parametrize("clip_norm", [0.1, 100.0])  # the gradient's norm is about 0.6
def test_an_update_by_rows_is_the_plain_one(clip_norm):
    plain, its_state = trained(update, clip_norm)
    ours, state = trained(update_by_rows, clip_norm)
    for (name, wanted), found in zip(plain.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=name)
    for number, wanted in its_state.items():
        assert state[number]["step"].item() == wanted["step"].item() == STEPS
        torch.testing.assert_close(state[number]["exp_avg"], wanted["exp_avg"], rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(state[number]["exp_avg_sq"], wanted["exp_avg_sq"], rtol=1e-4, atol=1e-11)
    lengths = ours.decoder.detach().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-6, atol=0)


def gradients_of(way, choose, k):
    """The result and the gradients of a reconstruction in which feature 0 fires on every token, and some nowhere."""
    random = torch.Generator().manual_seed(2)
    x = torch.randn(150, 24, generator=random).to(DEVICE)
    model = TopKModel(TopKConfig(d_in=24, d_sae=64, k=k, steps=STEPS)).to(DEVICE)
    with torch.no_grad():
        model.bias.copy_(torch.randn(24, generator=random))
        model.encoder_bias.copy_(torch.randn(64, generator=random))
        model.encoder_bias[0], model.encoder_bias[1:9] = 30, -30
        before = torch.nn.functional.linear(x - model.bias, model.encoder, model.encoder_bias)
    chosen = choose(before, k)
    summed, values = way(x, model.bias, model.encoder, model.encoder_bias, model.decoder, before, chosen)
    (summed * torch.randn(150, 24, generator=random).to(DEVICE)).sum().backward()
    return [summed.detach(), values.detach(), *(parameter.grad for parameter in model.parameters())]


def in_parts(x, bias, encoder, encoder_bias, decoder, before, chosen):
    values = kept_codes(x, bias, encoder, encoder_bias, before, chosen).relu()
    return sum_rows(decoder, chosen.features, values, chosen.starts), values


@needs_triton
@pytest.mark.parametrize(("choose", "k"), [(choose_per_token, 4), (choose_over_batch, 4), (choose_per_token, 40)])
def test_the_reconstruction_and_its_gradients_are_those_of_its_parts(choose, k):
    for wanted, found in zip(gradients_of(in_parts, choose, k), gradients_of(reconstruct, choose, k), strict=True):
        assert wanted.abs().max() > 0
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_kernels_are_for_graphics_cards():
    assert fastest_update(torch.zeros(64, 24)) is update
