"""The SparseAutoencoder against formulas written out in the tests, its chunks and its refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plain_sae import D_IN, D_SAE, KINDS, build, close, every_kind, expected_codes, expected_reconstruction, tensors_for
from sae.dictionary import autoencoder
from sae.dictionary.autoencoder import Architecture, SparseAutoencoder, SparseCodes
from sae.places.site import parse_location


@pytest.fixture
def x() -> Tensor:
    return torch.randn((3, 7, D_IN), generator=torch.Generator().manual_seed(5)) * 2 + 0.5


@every_kind
def test_codes_and_reconstruction_follow_the_formula(architecture: Architecture, x: Tensor) -> None:
    sae, t = build(architecture), tensors_for(architecture)
    f = expected_codes(x, t, architecture)
    assert 0 < (f != 0).float().mean() < 1
    close(sae.encode(x), f)
    close(sae.decode(f, like=x), expected_reconstruction(x, f, t, architecture))
    close(sae.reconstruct(x), expected_reconstruction(x, f, t, architecture))


@every_kind
def test_the_three_ways_to_encode_agree(architecture: Architecture, x: Tensor) -> None:
    sae = build(architecture)
    dense, sparse = sae.encode(x), sae.encode_sparse(x)
    close(sparse.to_dense(D_SAE), dense)
    ids = [31, 0, 7, 7]
    close(sae.codes(x, ids), dense[..., ids])
    close(sae.codes(x, torch.tensor(ids)), dense[..., ids])
    width = architecture.k or int((dense != 0).sum(-1).max())
    assert sparse.values.shape == sparse.indices.shape == (3, 7, width)
    assert sparse.indices.dtype == torch.int64 and sparse.values.dtype == torch.float32


@every_kind
def test_direction_is_what_the_reconstruction_gains(architecture: Architecture, x: Tensor) -> None:
    sae = build(architecture)
    f = sae.encode(x)
    for feature in (0, 17, D_SAE - 1):
        step = torch.zeros(D_SAE)
        step[feature] = 1.0
        gained = sae.decode(f + step, like=x) - sae.decode(f, like=x)
        close(gained, sae.token_scale(x) * sae.direction([feature])[0])


def test_token_scale_is_one_without_normalisation(x: Tensor) -> None:
    assert torch.equal(build(Architecture("relu")).token_scale(x), torch.ones(3, 7, 1))


@every_kind
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_batch_dimensions_of_any_rank(architecture: Architecture, shape: tuple[int, ...]) -> None:
    sae = build(architecture)
    x = torch.randn(*shape, D_IN)
    sparse = sae.encode_sparse(x)
    assert sae.encode(x).shape == (*shape, D_SAE)
    assert sparse.values.shape[:-1] == sparse.indices.shape[:-1] == shape
    assert sae.codes(x, [1, 2, 3]).shape == (*shape, 3)
    assert sae.decode(sae.encode(x), like=x).shape == sae.reconstruct(x).shape == x.shape
    close(sae.reconstruct(x).reshape(-1, D_IN), sae.reconstruct(x.reshape(-1, D_IN)))


def test_no_active_feature_reconstructs_the_bias(x: Tensor) -> None:
    tensors = tensors_for(Architecture("batchtopk")) | {"threshold": torch.tensor(1e6)}
    sae = SparseAutoencoder.from_tensors(tensors, Architecture("batchtopk"))
    assert sae.encode_sparse(x).values.shape == (3, 7, 0)
    assert torch.equal(sae.reconstruct(x), tensors["output_bias"].expand(3, 7, D_IN))


@every_kind
def test_chunks_give_the_same_codes_as_one_piece(
    architecture: Architecture, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = build(architecture)
    dense, sparse, back = sae.encode(x), sae.encode_sparse(x), sae.reconstruct(x)
    monkeypatch.setattr(autoencoder, "SCRATCH_BYTES", 4 * D_IN * 3)  # 3 features and 12 tokens at a time
    assert sae.encode_sparse(x).values.shape == sparse.values.shape
    close(sae.encode_sparse(x).to_dense(D_SAE), dense)
    close(sae.encode(x), dense)
    close(sae.reconstruct(x), back)


def test_topk_chunks_keep_k_places_when_codes_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers, so that ties are exact: many features share each value, and some tokens have under k positive."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "encoder": torch.randint(-1, 2, (D_SAE, D_IN), generator=generator).float(),
        "decoder": torch.eye(D_SAE, D_IN),
    }
    tensors["encoder"][20:] = tensors["encoder"][:20]
    x = torch.randint(-2, 3, (9, D_IN), generator=generator).float()
    x[0] = 0
    sae = SparseAutoencoder.from_tensors(tensors, Architecture("topk", k=7))
    wanted = torch.relu(x @ tensors["encoder"].T).sort(-1, descending=True).values[:, :7]
    for scratch in (64 * 2**20, 4 * D_IN * 3, 4 * D_IN):
        monkeypatch.setattr(autoencoder, "SCRATCH_BYTES", scratch)
        codes = sae.encode_sparse(x)
        assert codes.values.shape == codes.indices.shape == (9, 7)
        assert torch.equal(codes.values.sort(-1, descending=True).values, wanted)
        active = codes.values > 0
        source = torch.relu(x @ tensors["encoder"].T).gather(1, codes.indices)
        assert torch.equal(source[active], codes.values[active])
        assert all(len(set(row.tolist())) == 7 for row in codes.indices)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_kind
def test_half_precision_weights_are_computed_in_float32(
    architecture: Architecture, dtype: torch.dtype, x: Tensor
) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in tensors_for(architecture).items()}
    sae = SparseAutoencoder.from_tensors(stored, architecture)
    rounded = {name: tensor.float() for name, tensor in stored.items()}
    f = expected_codes(x, rounded, architecture)
    assert sae.encode(x).dtype == sae.reconstruct(x.half()).dtype == sae.direction([0]).dtype == torch.float32
    assert sae.part("encoder").weight.dtype == sae.part("decoder").weight.dtype == dtype
    close(sae.encode(x), f)
    close(sae.reconstruct(x), expected_reconstruction(x, f, rounded, architecture))


def test_parts_are_kept_and_follow_their_host() -> None:
    sae = build(KINDS["topk rescaled"])
    encoder, decoder = sae.modules_for("encoder", "decoder")
    assert encoder is sae.part("encoder") and decoder is sae.part("decoder")
    assert not any(parameter.requires_grad for parameter in [*encoder.parameters(), *decoder.parameters()])
    x = torch.randn(4, D_IN)
    before = sae.reconstruct(x)
    encoder.to(torch.float64)
    decoder.to(torch.float64)
    close(sae.reconstruct(x), before)


def test_decode_of_normalised_codes_needs_the_input() -> None:
    sae = build(KINDS["topk layer norm"])
    with pytest.raises(ValueError, match=r"like: .* none was given"):
        sae.decode(torch.zeros(2, D_SAE))


def test_constant_norm_of_an_empty_token_stays_finite() -> None:
    sae = build(KINDS["relu constant norm"])
    assert torch.equal(sae.reconstruct(torch.zeros(1, D_IN)), torch.zeros(1, D_IN))


@pytest.mark.parametrize("x", [torch.zeros(2, D_IN + 1), torch.zeros(()), torch.zeros(2, D_IN, dtype=torch.int64)])
def test_activations_of_another_width_are_refused(x: Tensor) -> None:
    sae = build(KINDS["relu"])
    for call in (sae.encode, sae.encode_sparse, sae.reconstruct, sae.token_scale, lambda x: sae.codes(x, [0])):
        with pytest.raises(ValueError, match=f"width {D_IN}, but got"):
            call(x)


@pytest.mark.parametrize("feature", [-1, D_SAE, 10**6])
def test_features_out_of_range_are_refused(feature: int) -> None:
    sae = build(KINDS["relu"])
    for call in (sae.direction, lambda ids: sae.codes(torch.zeros(1, D_IN), ids)):
        with pytest.raises(ValueError, match=f"no feature {feature}; its features are 0 to {D_SAE - 1}"):
            call([0, feature])


def test_codes_of_another_sae_are_refused() -> None:
    with pytest.raises(ValueError, match=f"has {D_SAE} features"):
        build(KINDS["relu"]).decode(torch.zeros(2, D_SAE - 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": torch.zeros(D_SAE, D_IN + 1)}, "encoder has the shape"),
        ({"encoder_bias": torch.zeros(D_IN)}, "encoder_bias has the shape"),
        ({"output_bias": torch.zeros(D_SAE)}, "output_bias has the shape"),
        ({"decoder": torch.zeros(D_SAE)}, "decoder must be a matrix"),
        ({"encoder": torch.zeros(D_SAE, D_IN, dtype=torch.int64)}, "does not hold floating point"),
    ],
)
def test_shapes_that_contradict_each_other_are_refused(change: dict[str, Tensor], message: str) -> None:
    tensors = tensors_for(Architecture("relu")) | change
    with pytest.raises(ValueError, match=message):
        SparseAutoencoder.from_tensors(tensors, Architecture("relu"))


def test_impossible_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match="needs k"):
        Architecture("topk")
    with pytest.raises(ValueError, match="k is 41, but must lie between 1 and the number of features, 40"):
        SparseAutoencoder.from_tensors(tensors_for(Architecture("relu")), Architecture("topk", k=D_SAE + 1))
    with pytest.raises(ValueError, match="needs the tensor threshold"):
        SparseAutoencoder.from_tensors(tensors_for(Architecture("relu")), Architecture("jumprelu"))


def test_sparse_codes_with_unused_places_at_feature_zero_keep_its_value() -> None:
    codes = SparseCodes(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0, 0, 0]]))
    assert codes.to_dense(3).tolist() == [[2.0, 0.0, 0.0]]
    assert codes.pick(torch.tensor([1, 0])).tolist() == [[0.0, 2.0]]


def test_another_site_shares_the_weights() -> None:
    sae = build(KINDS["relu"])
    site = parse_location("transformer_blocks.3", "text")
    moved = sae.at(site)
    assert moved.site == site and sae.site is None
    assert moved.part("decoder") is sae.part("decoder")


def test_a_description_names_what_matters() -> None:
    assert repr(build(KINDS["topk layer norm"])) == (
        "SAE in memory: 40 features of width 12 (topk k=5, layer norm, codes times decoder norm)"
    )
