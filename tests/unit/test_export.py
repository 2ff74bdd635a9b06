"""SAEs of every kind, written in every layout that can hold them and read back; refusals; what is in the files."""

from __future__ import annotations

import pytest
import torch

from export_cases import CASES, D, F, tokens
from export_saes import SITE, WEIGHTS, build
from goldens import GOLDENS
from plain_sae import close
from sae.dictionary.activations import Architecture
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.export import TARGETS, export
from sae.formats import load

HELD = [(name, target) for name, case in CASES.items() for target in ("sae_steering", *case.targets.split())]
REFUSED = [(name, target) for name in CASES for target in TARGETS if (name, target) not in HELD]
every_target = pytest.mark.parametrize("target", TARGETS)


@pytest.mark.parametrize(("name", "target"), HELD)
def test_round_trip(name, target, tmp_path):
    case, x = CASES[name], tokens()
    path = export(build(name, site=SITE), tmp_path / "some name", target)
    assert path == tmp_path / "some name" / WEIGHTS[target]
    found = load(path.parent)
    sigma = 0.62 if case.modulated else None
    f = case.codes(x, sigma or 0.0)
    assert 0.02 < (f != 0).float().mean() < 1.01
    close(found.encode(x, sigma), f)
    close(found.reconstruct(x, sigma), case.decoded(f, x))
    close(found.direction(range(F)), case.directions())
    assert found.site == SITE and (found.d_in, found.d_sae) == (D, F)
    if target == "sae_steering":
        assert found.architecture == Architecture(**case.architecture)
        assert {key: weight.shape for key, weight in found.weights.tensors.items()} == {
            key: tuple(tensor.shape) for key, tensor in case.tensors().items()
        }


NOT_POSITIVE = "it has no ReLU, so its codes may be negative"
REASONS = {
    "topk, no ReLU": NOT_POSITIVE,
    "identity": NOT_POSITIVE,
    "jumprelu, negative codes": "it has no ReLU and negative thresholds, so its codes may be negative",
    "groupmax": "it keeps the largest of each of 5 groups",
    "tanh": "its activation function is tanh",
    "modulation": "its codes depend on the noise level",
}


def reason_for(name: str, target: str) -> str:
    kind = CASES[name].architecture["kind"]
    if target == "reny_topk" and kind != "topk":
        return f"it holds topk SAEs only, and this one is {kind}"
    normalization = CASES[name].architecture.get("normalization")
    if normalization:
        return f"it has no normalisation, and this one has {normalization.replace('_', ' ')}"
    return REASONS[name]


@pytest.mark.parametrize(("name", "target"), REFUSED)
def test_what_a_target_cannot_hold_is_refused(name, target, tmp_path):
    able = " or ".join(other for other in TARGETS if (name, other) in HELD)
    with pytest.raises(ValueError) as caught:
        export(build(name), tmp_path / "new", target)
    sentence = f"target: {target} cannot hold my {name}: {reason_for(name, target)}; use {able}."
    assert str(caught.value) == sentence
    assert not (tmp_path / "new").exists()


def test_an_unknown_target_is_refused(tmp_path):
    known = "sae_steering, saelens, reny_topk, dictionary_learning"
    with pytest.raises(ValueError, match=rf"^target: 'onnx' is not a layout to write; use one of {known}\.$"):
        export(build("topk"), tmp_path, "onnx")


# The reference checkpoints

ASKED = {"overcomplete_topk": ("overcomplete_topk/state_dict.pt", "overcomplete_topk:4")}
NO_RELU, NORMALISED, MODULATED = ["saev_topk"], ["openai_topk", "saelens_topk_rescale_ln"], ["diffract_sae"]


def golden_names() -> list[str]:
    return (
        sorted(path.name for path in GOLDENS.iterdir() if not path.name.startswith("neg_")) if GOLDENS.is_dir() else []
    )


@pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"no reference checkpoints in {GOLDENS}")
@pytest.mark.parametrize("name", golden_names())
def test_reference_checkpoints_keep_their_codes_in_every_target(name, tmp_path):
    place, architecture = ASKED.get(name, (name, "auto"))
    sae = load(GOLDENS / place, architecture=architecture)
    expected = torch.load(GOLDENS / name / "expected.pt", weights_only=True)
    sigma = 0.62 if name in MODULATED else None
    held = []
    for target in TARGETS:
        try:
            found = load(export(sae, tmp_path / target, target))
        except ValueError as error:
            assert str(error).startswith(f"target: {target} cannot hold ")
            continue
        held.append(target)
        close(found.encode(expected["x"], sigma), expected["f"])
        close(found.reconstruct(expected["x"], sigma), expected["xhat"])
    if name in NO_RELU + MODULATED:
        assert held == ["sae_steering"]
    elif name in NORMALISED:
        assert held == ["sae_steering", "saelens"]
    else:
        topk = sae.architecture.kind == "topk"
        assert held == [target for target in TARGETS if topk or target != "reny_topk"]


# Types


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@every_target
def test_matrices_keep_their_type_and_every_bit(target, dtype, tmp_path):
    sae = build("topk, one bias", dtype)
    found = load(export(sae, tmp_path, target))
    for name in ("encoder", "decoder"):
        stored = found.weights.tensors[name].whole()
        assert stored.dtype == dtype and torch.equal(
            bits(stored), bits(CASES["topk, one bias"].tensors()[name].to(dtype))
        )
    for name in ("encoder_bias", "output_bias"):
        wanted = CASES["topk, one bias"].tensors()[name].to(dtype).float()
        assert torch.equal(found.weights.optional_vector(name), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", ["saelens", "dictionary_learning"])
def test_sixteen_bits_that_must_be_computed_anew_become_float32_and_lose_nothing(target, dtype, tmp_path):
    sae, x = build("jumprelu, norm after", dtype), tokens()
    found = load(export(sae, tmp_path, target))
    assert {found.weights.tensors[name].whole().dtype for name in ("encoder", "decoder")} == {torch.float32}
    close(found.encode(x), sae.encode(x))
    close(found.reconstruct(x), sae.reconstruct(x))
    assert not torch.allclose(sae.encode(x), CASES["jumprelu, norm after"].codes(x), atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 8e-2)], ids=str)
@every_target
def test_a_type_that_is_asked_for(target, dtype, tolerance, tmp_path):
    sae, x = build("topk, no biases"), tokens()
    found = load(export(sae, tmp_path, target, dtype))
    types = {weight.source.infos[weight.key].dtype for weight in found.weights.tensors.values()}
    assert types == {dtype}
    assert (found.reconstruct(x) - sae.reconstruct(x)).abs().max() < 30 * tolerance
    rounded = {name: tensor.to(dtype) for name, tensor in CASES["topk, no biases"].tensors().items()}
    same = SparseAutoencoder.from_tensors(rounded, sae.architecture)
    close(found.reconstruct(x), same.reconstruct(x))


@every_target
def test_values_that_a_type_cannot_hold_are_refused(target, tmp_path):
    sae = build("topk")
    sae.weights.tensors["decoder"].source.tensors["decoder"][3, 4] = 7e4
    with pytest.raises(ValueError) as caught:
        export(sae, tmp_path, target, torch.float16)
    name = {"sae_steering": "decoder", "saelens": "W_dec"}.get(target, "decoder.weight")
    sentence = f"dtype: the SAE has values beyond 65504 in {name}, which float16 cannot hold; use bfloat16 or float32."
    assert str(caught.value) == sentence
    assert list(tmp_path.iterdir()) == []
    export(sae, tmp_path, target, torch.bfloat16)


@every_target
def test_broken_weights_are_not_written(target, tmp_path):
    sae = build("topk")
    sae.weights.tensors["encoder"].source.tensors["encoder"][0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'encoder' holds NaN or infinite values"):
        export(sae, tmp_path, target)
    assert list(tmp_path.glob("*")) == []
