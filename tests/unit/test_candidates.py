"""TopK by candidates against the dense float32 product: the same codes, and a bound that holds and is of use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plain_sae import KINDS, build
from sae.dictionary import autoencoder
from sae.dictionary.activations import Architecture, SparseCodes
from sae.dictionary.fast import candidates
from sae.dictionary.fast.candidates import topk_codes
from sae.dictionary.fast.rounding import highest, rounded
from sae.dictionary.weights import Part

SCRATCH = 2**20  # so small that features and tokens come in several pieces
KEPT = 2.0**-9  # a half of what bfloat16 has behind 1, and lost where it stands beside 1


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Counted:
    """The full product in float32, which counts the tokens that come to it."""

    def __init__(self, encoder: Tensor, k: int) -> None:
        self.encoder, self.k, self.tokens = encoder.float(), k, 0

    def __call__(self, centred: Tensor) -> SparseCodes:
        self.tokens += len(centred)
        return SparseCodes(*(centred @ self.encoder.T).relu().topk(self.k, dim=1))


def found(x: Tensor, encoder: Tensor, k: int) -> tuple[SparseCodes, SparseCodes, int]:
    """Codes by candidates, the dense ones, and how many tokens had to be computed in full."""
    full, architecture = Counted(encoder, k), Architecture("topk", k=k)
    codes = topk_codes(x.float(), Part(encoder, {}), architecture, full, SCRATCH)
    tokens = full.tokens
    return codes, full(x.float()), tokens


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.float64),
    ],
)
def test_most_tokens_are_settled_and_all_codes_are_the_dense_ones(given: torch.dtype, stored: torch.dtype) -> None:
    codes, dense, full = found(random(280, 128).to(given), random(3000, 128, seed=1).to(stored), 8)
    assert full < 28
    assert torch.equal(codes.indices, dense.indices)
    torch.testing.assert_close(codes.values, dense.values, rtol=3e-6, atol=0)


@pytest.mark.parametrize("k", [1, 7, 300])
def test_ties_and_near_ties_of_numbers_that_float32_adds_without_error(k: int) -> None:
    """Whole numbers of twelve bits, of which bfloat16 keeps eight; rows that differ by one; zero tokens and rows."""
    chance = torch.Generator().manual_seed(2)
    x = torch.randint(-2047, 2048, (40, 64), generator=chance).float()
    encoder = torch.randint(-1, 2, (300, 64), generator=chance).float()
    encoder[100:200] = encoder[50]
    encoder[torch.arange(120, 200), torch.arange(80) % 64] += 1
    x[3], encoder[7] = 0, 0
    codes, dense, _ = found(x, encoder, k)
    assert torch.equal(codes.values, dense.values)
    assert torch.equal((x @ encoder.T).relu().gather(1, codes.indices), codes.values)
    assert all(len(row.unique()) == k for row in codes.indices)


def misleading(decoy: float) -> tuple[Tensor, Tensor]:
    """A token and rows of which the last is the best by 2.0, all of it in what bfloat16 drops; and 200 decoys."""
    signs = torch.where(torch.arange(1024) % 2 == 0, 1.0, -1.0)
    encoder = torch.zeros(201, 1024)
    encoder[:200, 0] = decoy / (1 + KEPT)
    encoder[200] = signs
    return (1 + KEPT * signs).unsqueeze(0), encoder


def test_what_rounding_hides_is_proposed_nevertheless() -> None:
    codes, dense, full = found(*misleading(1.0), 1)
    assert codes.indices.item() == dense.indices.item() == 200 and codes.values.item() == 2.0
    assert full == 0


def test_where_the_bound_leaves_it_open_all_features_are_computed() -> None:
    codes, _, full = found(*misleading(1.97), 1)
    assert codes.indices.item() == 200 and full == 1


def test_where_most_tokens_stay_open_the_others_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(candidates, "highest", lambda x, weight: tried.append(len(x.rows)) or highest(x, weight))
    token, encoder = misleading(1.97)
    _, _, full = found(token.expand(300, -1), encoder, 1)
    assert full == 300 and set(tried) == {candidates.TRIED}


@pytest.mark.parametrize("tokens", [0, 1, 256, 257])
def test_the_encoder_is_read_for_no_other_tokens_than_there_are(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(candidates, "rounded", lambda rows: tried.append(len(rows)) or rounded(rows))
    codes, dense, _ = found(random(tokens, 64), random(300, 64, seed=1), 2)
    assert tried == [256, 1] if tokens == 257 else tried == [tokens]
    assert codes.values.shape == (tokens, 2) and torch.equal(codes.indices, dense.indices)


def test_gradients_go_through_torchs_own_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a pipeline is trained through steering: kernels would leave them out without a word."""
    x, sae = random(9, 12, seed=5).requires_grad_(), build(KINDS["topk"])
    (expected,) = torch.autograd.grad(sae.reconstruct(x).square().sum(), x)
    monkeypatch.setattr(autoencoder, "worthwhile", lambda *given: True)
    monkeypatch.setattr(autoencoder, "have_kernels", lambda *given: True)
    for name in ("topk_codes", "sums_of_rows"):
        monkeypatch.setattr(autoencoder, name, lambda *given: pytest.fail("without a gradient"))
    (found,) = torch.autograd.grad(sae.reconstruct(x).square().sum(), x)
    assert torch.equal(found, expected) and expected.abs().max() > 0


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e12])
def test_nothing_lies_above_the_bound(scale: float) -> None:
    x, weight = random(50, 300) * scale, random(60, 300, seed=1)
    weight[0], x[0] = 0, 0
    bound, exact = highest(rounded(x), rounded(weight)).double(), x.double() @ weight.double().T
    assert (bound >= exact).all() and (bound >= (x @ weight.T).double()).all()
    if scale == 1.0:
        lengths = x.norm(dim=1, keepdim=True) * weight.norm(dim=1)
        assert ((bound - exact) <= 0.01 * lengths + 1e-9).all()


def test_numbers_beyond_float32_are_left_to_the_full_product() -> None:
    x = random(3, 64)
    x[0], x[1, 5] = x[0] * 1e30, torch.nan
    _, _, full = found(x, random(300, 64, seed=1) * 1e10, 2)
    assert full == 2


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.kind == "topk"])
def test_an_sae_finds_the_same_codes_by_candidates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, sae = random(3, 7, 12, seed=5) * 2 + 0.5, build(KINDS[name])
    expected = sae.encode_sparse(x)
    monkeypatch.setattr(autoencoder, "worthwhile", lambda *given: True)
    codes = sae.encode_sparse(x)
    assert torch.equal(codes.indices.sort(-1).values, expected.indices.sort(-1).values)
    torch.testing.assert_close(codes.values, expected.values, rtol=1e-5, atol=1e-6)


def test_a_cpu_computes_all_features_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a product in bfloat16 takes four times as long as one in float32."""
    monkeypatch.setattr(candidates, "FEWEST", 1)
    part = Part(torch.zeros(4096, 8, dtype=torch.bfloat16), {})
    assert not candidates.worthwhile(part, Architecture("topk", k=1), torch.device("cpu"))


def test_codes_are_picked_by_feature_in_any_order_and_twice() -> None:
    codes = SparseCodes(torch.tensor([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 0.0]]]), torch.tensor([[[7, 2, 9]], [[2, 40, 2]]]))
    ids = torch.tensor([9, 2, 5, 2, 41])
    assert torch.equal(codes.pick(ids), codes.to_dense(50)[..., ids])
    assert codes.pick(ids[:0]).shape == (2, 1, 0)
