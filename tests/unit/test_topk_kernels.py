"""TopK by kernels finds the codes of the full product. On a GPU, or in Triton's interpreter."""

import os
from importlib.util import find_spec

import pytest
import torch

from plain_sae import KINDS, build
from sae.dictionary import autoencoder
from sae.dictionary.activations import Architecture, SparseCodes
from sae.dictionary.fast import candidates
from sae.dictionary.fast.availability import have_kernels, works
from sae.dictionary.fast.candidates import _rank_and_room, topk_codes
from sae.dictionary.weights import Part

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are made
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
SCRATCH = 2**18  # so small that features and tokens come in several pieces
TOKENS, D_IN, D_SAE, K = 12, 64, 3_000, 5


@pytest.fixture(autouse=True)
def by_kernels(monkeypatch):
    monkeypatch.setattr(candidates, "have_kernels", lambda weight: True)
    if find_spec("triton") is not None:
        monkeypatch.setattr("sae.dictionary.fast.kernels.AT_ONCE", 128)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def compared(x, encoder, vectors=None, k=K, **architecture):
    """Codes by kernels, the dense ones, and the tokens that had to be computed in full."""
    part, kind, tokens = Part(encoder, vectors or {}), Architecture("topk", k=k, **architecture), []

    def full(centred):
        tokens.append(len(centred))
        pre = centred @ encoder.float().T + (vectors or {}).get("encoder_bias", 0)
        pre = pre * vectors["decoder_norm"] if kind.decoder_norm != "none" else pre
        return SparseCodes(*(pre.relu() if kind.rectify else pre).topk(k, dim=1))

    codes = topk_codes(x.float(), part, kind, full, SCRATCH)
    return codes, full(x.float()), sum(tokens[:-1])


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("vectors", [(), ("encoder_bias",), ("encoder_bias", "decoder_norm")])
def test_codes_by_kernels_are_the_dense_ones(dtype, rectify, vectors):
    made = {"encoder_bias": random(D_SAE, seed=2), "decoder_norm": random(D_SAE, seed=3).abs()}
    given, norm = {name: made[name] for name in vectors}, "after" if "decoder_norm" in vectors else "none"
    x, encoder = random(TOKENS, D_IN), random(D_SAE, D_IN, seed=1).to(dtype)
    codes, dense, full = compared(x, encoder, given, rectify=rectify, decoder_norm=norm)
    assert full == 0 and torch.equal(codes.indices, dense.indices)
    torch.testing.assert_close(codes.values, dense.values, rtol=3e-6, atol=1e-5)


@needs_triton
def test_tokens_may_lie_in_memory_in_any_order():
    """Channels first, as in a convolution, and as a part of longer rows; and so may codes."""
    from sae.dictionary.fast.kernels import decode

    x, encoder = random(TOKENS, D_IN), random(D_SAE, D_IN, seed=1)
    for given in (x.T.contiguous().T, torch.cat([x, x], dim=1)[:, :D_IN]):
        assert not given.is_contiguous()
        codes, dense, full = compared(given, encoder)
        assert full == 0 and torch.equal(codes.indices, dense.indices)
    values, features = (part[:, :1].flatten() for part in codes)
    assert not features.is_contiguous()
    sums = decode(encoder, features, values, torch.arange(TOKENS, device=DEVICE))
    torch.testing.assert_close(sums, values[:, None] * encoder[features])


@needs_triton
def test_tokens_without_a_line_are_computed_in_full():
    x = random(TOKENS, D_IN)
    x[3, 1], x[5] = torch.nan, 1e30
    _, dense, full = compared(x, random(D_SAE, D_IN, seed=1) * 1e10)
    assert full == 2 and dense.values[3].isnan().all()


@needs_triton
def test_features_that_are_all_alike_leave_it_open():
    """More than there is room for lie above the line, which is as high as they are."""
    x, encoder = random(TOKENS, D_IN), random(1, D_IN, seed=1).expand(D_SAE, -1).contiguous()
    encoder[:, 0] += 1e-6 * random(D_SAE, seed=2)
    codes, dense, full = compared(x, encoder, rectify=False)
    assert full == TOKENS and torch.equal(codes.values, dense.values)


@needs_triton
def test_where_fewer_than_k_fire_the_rest_is_zero():
    """A bias that only two features overcome."""
    bias = torch.full((D_SAE,), -1e3, device=DEVICE)
    bias[[7, 2_999]] = 1e3
    codes, dense, full = compared(random(TOKENS, D_IN), random(D_SAE, D_IN, seed=1), {"encoder_bias": bias})
    assert full == 0 and codes.indices[:, :2].sort(dim=1).values.tolist() == [[7, 2_999]] * TOKENS
    torch.testing.assert_close(codes.values, dense.values, rtol=3e-6, atol=0)
    assert (codes.values[:, 2:] == 0).all() and int(codes.indices.max()) < D_SAE


@needs_triton
def test_misleading_features_in_front_cost_time_and_no_code():
    """Half of the features, all of the sample among them, lie below: too many above the line."""
    encoder = random(D_SAE, D_IN, seed=1)
    encoder[::8] *= 0.01
    codes, dense, _ = compared(random(TOKENS, D_IN), encoder)
    assert torch.equal(codes.indices, dense.indices)


@needs_triton
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.kind == "topk"])
def test_an_sae_is_the_same_by_kernels(name, monkeypatch):
    x, sae = random(3, 7, 12, seed=5).cpu() * 2 + 0.5, build(KINDS[name])
    expected, reconstructed = sae.encode_sparse(x), sae.reconstruct(x)
    monkeypatch.setattr(autoencoder, "worthwhile", lambda *given: True)
    monkeypatch.setattr(autoencoder, "have_kernels", lambda *given: DEVICE == "cpu")
    if DEVICE == "cuda":
        monkeypatch.setattr(candidates, "have_kernels", lambda weight: False)  # these weights are not there
    codes = sae.encode_sparse(x)
    assert torch.equal(codes.indices.sort(-1).values, expected.indices.sort(-1).values)
    torch.testing.assert_close(sae.reconstruct(x), reconstructed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 16, 64, 256])
def test_a_sample_holds_so_many_hardly_ever_fewer_nor_more(k):
    """By the binomial's own tail, of features above the line and of those that there is room for."""
    sample, d_sae = 6_144, 49_152
    rank, room = _rank_and_room(k, sample, d_sae)
    in_sample = torch.distributions.Binomial
    numbers = torch.arange(0.0, rank)
    below = in_sample(room, torch.tensor(sample / d_sae, dtype=torch.float64)).log_prob(numbers).exp().sum()
    above = (
        1
        - in_sample(k + k // 2, torch.tensor(sample / d_sae, dtype=torch.float64))
        .log_prob(torch.arange(0.0, min(rank, k + k // 2 + 1)))
        .exp()
        .sum()
    )
    assert below < 1e-6 and above < 1e-4


def test_there_are_no_kernels_for_processors():
    assert not have_kernels(torch.zeros(64, 24))


def test_an_attempt_that_fails_means_no_kernels_but_one_without_memory_means_nothing():
    def failing(error):
        def attempt():
            raise error

        return attempt

    assert (
        works(lambda: True) and not works(failing(RuntimeError("no C compiler"))) and not works(failing(ImportError()))
    )
    with pytest.raises(torch.cuda.OutOfMemoryError):
        works(failing(torch.cuda.OutOfMemoryError()))
