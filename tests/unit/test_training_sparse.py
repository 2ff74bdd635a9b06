"""Gradients of the kept codes alone equal autograd's dense ones, and no dense gradient is kept."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear

from sae.training.config import TopKConfig
from sae.training.sparse import choose_over_batch, choose_per_token, largest
from sae.training.topk import TopKModel, auxiliary_by_products, auxiliary_by_rows

D, F, K, N = 24, 160, 5, 48
CONFIG = TopKConfig(d_in=D, d_sae=F, k=K, steps=10, batch_tokens=N)
KINDS = ("topk", "batchtopk", "matryoshka")


def model_and_tokens(architecture="topk", **more):
    random = torch.Generator().manual_seed(3)
    model = TopKModel(replace(CONFIG, architecture=architecture, **more))
    with torch.no_grad():
        model.bias.copy_(torch.randn(D, generator=random) / 2)
        model.encoder_bias.copy_(torch.randn(F, generator=random) / 4)
        model.encoder.add_(torch.randn(F, D, generator=random) / 10)
        model.scale.fill_(1.5)
    return model, torch.randn(N, D, generator=random)


def dense_loss(model, x, dead):
    """The same loss with dense codes (n, d_sae), as the papers write it."""
    config, x = model.config, x / model.scale
    before = linear(x - model.bias, model.encoder, model.encoder_bias)
    if config.over_batch:
        cut = before.flatten().sort(descending=True).values[N * K - 1]
        kept = before >= cut
    else:
        kept = before >= before.sort(dim=1, descending=True).values[:, K - 1 : K]
    codes = torch.where(kept, before, 0.0).relu()
    variance = (x - x.mean(dim=0)).square().sum()
    errors = [x - model.bias - codes[:, :width] @ model.decoder[:width] for width in config.nested]
    shares = [error.square().sum() / variance for error in errors]
    count = min(config.aux_features, int(dead.sum()))
    auxiliary = torch.zeros(())
    if count:
        hidden = before.masked_fill(~dead, -math.inf)
        cut = hidden.sort(dim=1, descending=True).values[:, count - 1 : count]
        others = torch.where(hidden >= cut, before, 0.0).relu()
        auxiliary = (errors[-1].detach() - others @ model.decoder).square().sum() / variance
    return sum(shares) / len(shares) + config.aux_weight * auxiliary, shares[-1]


@pytest.mark.parametrize("dead_count", [0, 7, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_dense_codes(kind, dead_count):
    model, x = model_and_tokens(kind)
    dead = torch.arange(F) < dead_count
    losses = model.losses(x, dead)
    losses.total.backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    total, last = dense_loss(model, x, dead)
    total.backward()
    torch.testing.assert_close(losses.total, total, rtol=1e-6, atol=0)
    torch.testing.assert_close(losses.reconstruction, last, rtol=1e-6, atol=0)
    for name, parameter in model.named_parameters():
        error = (ours[name] - parameter.grad).abs().max() / parameter.grad.abs().max()
        assert error < 3e-6, name
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_dense_code_is_kept_for_the_gradient(kind):
    model, x = model_and_tokens(kind)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        model.losses(x, torch.arange(F) < 3)
    assert kept
    assert max(kept) <= F * D < N * F


@pytest.mark.parametrize(("columns", "k"), [(160, 5), (160, 10), (161, 5), (64, 4), (32, 32), (4096, 20)])
def test_the_largest_are_found(columns, k):
    values = torch.randn(30, columns, generator=torch.Generator().manual_seed(columns))
    found = largest(values, k)
    assert all(len(set(row)) == k for row in found.tolist())
    wanted = values.sort(dim=1, descending=True).values[:, :k]
    assert torch.equal(values.gather(1, found).sort(dim=1, descending=True).values, wanted)


def test_a_batch_keeps_k_a_token_on_average_and_rich_tokens_get_more():
    before = torch.rand(20, 64, generator=torch.Generator().manual_seed(1))
    before[:5] += 1
    chosen = choose_over_batch(before, 4)
    per_token = torch.bincount(chosen.tokens, minlength=20)
    assert len(chosen.tokens) == 80 and chosen.tokens.tolist() == sorted(chosen.tokens.tolist())
    assert per_token[:5].tolist() == [16] * 5 or per_token[:5].sum() == 80
    smallest = before[chosen.tokens, chosen.features].min()
    assert (before >= smallest).sum() == 80
    assert chosen.starts.tolist() == (per_token.cumsum(0) - per_token).tolist()
    assert torch.bincount(choose_per_token(before, 4).tokens).tolist() == [4] * 20


def test_products_in_bfloat16_are_close_and_are_used_when_asked():
    plain, x = model_and_tokens(products="float32")
    half, _ = model_and_tokens(products="bfloat16")
    dead = torch.zeros(F, dtype=torch.bool)
    exact, rough = (model.losses(x, dead).total.item() for model in (plain, half))
    assert rough != exact and rough == pytest.approx(exact, rel=0.01)
    assert model_and_tokens(products="auto")[0].losses(x, dead).total.item() == exact  # on a processor
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


@pytest.mark.parametrize(("dead_count", "count"), [(7, 7), (100, 12), (100, 100)])
def test_the_auxiliary_loss_is_the_same_by_products_as_by_rows(dead_count, count):
    model, x = model_and_tokens()
    dead = torch.arange(F) < dead_count
    before = linear(x - model.bias, model.encoder, model.encoder_bias).detach()
    error = torch.randn(N, D, generator=torch.Generator().manual_seed(4))
    found = {}
    for name, way in (
        ("rows", lambda: auxiliary_by_rows(model, x, before, error, dead, count)),
        ("products", lambda: auxiliary_by_products(model, x, error, dead, count, torch.float32)),
    ):
        model.zero_grad()
        loss = way()
        loss.backward()
        found[name] = [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]
    for wanted, ours in zip(found["rows"], found["products"], strict=True):
        assert wanted.abs().max() > 0
        assert (ours - wanted).abs().max() < 3e-6 * wanted.abs().max()
    rough = auxiliary_by_products(model, x, error, dead, count, torch.bfloat16)
    torch.testing.assert_close(rough, found["rows"][0], rtol=1e-2, atol=0)
