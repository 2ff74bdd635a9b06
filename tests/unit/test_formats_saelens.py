"""SAELens checkpoints (standard, topk, jumprelu, gated) with every normalisation of their input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from goldens import copy_as, expected, golden
from sae.formats import load

D, F, K = 10, 32, 4
VECTORS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale")
GOLDENS = ("standard", "topk", "topk_rescale_ln", "jumprelu", "gated")
every_architecture = pytest.mark.parametrize("architecture", VECTORS)
every_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def tensors_for(architecture: str) -> dict[str, Tensor]:
    torch.manual_seed(13)
    tensors = {"W_enc": torch.randn(D, F), "W_dec": torch.randn(F, D) * 0.6, "b_dec": torch.randn(D) * 0.5}
    return tensors | {name: torch.rand(F) if name == "threshold" else torch.randn(F) for name in VECTORS[architecture]}


def config_for(architecture: str, **changes: object) -> dict[str, Any]:
    config = {"architecture": architecture, "d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu"}
    config |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    config |= {"metadata": {"sae_lens_version": "6.18.0"}}
    if architecture == "topk":
        config |= {"k": K, "rescale_acts_by_decoder_norm": False}
    return config | changes


def write(folder: Path, tensors: dict[str, Tensor], config: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    if config is not None:
        (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "sae_weights.safetensors"


def formula(x: Tensor, t: dict[str, Tensor], config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(f, x̂), token by token, from the published description of the layout."""
    codes, out = [], []
    for token in x:
        shift, scale, divisor = 0.0, 1.0, 1.0
        if config["normalize_activations"] == "layer_norm":
            shift = token.sum() / D
            scale = ((token - shift).square().sum() / (D - 1)).sqrt()
            divisor = scale + 1e-5
        elif config["normalize_activations"] == "constant_norm_rescale":
            scale = divisor = token.norm() / D**0.5
        y = (token - shift) / divisor - (t["b_dec"] if config["apply_b_dec_to_input"] else 0)
        p = y @ t["W_enc"] + t.get("b_enc", 0)
        lengths = t["W_dec"].norm(dim=1) if config.get("rescale_acts_by_decoder_norm") else torch.ones(F)
        if config["architecture"] == "gated":
            f = (p + t["b_gate"] > 0) * (p * t["r_mag"].exp() + t["b_mag"]).clamp_min(0)
        elif config["architecture"] == "jumprelu":
            f = p.clamp_min(0) * (p > t["threshold"])
        elif config["architecture"] == "topk":
            p = p * lengths
            f = torch.where(p >= p.sort().values[-config["k"]], p, 0.0).clamp_min(0)
        else:
            f = p.clamp_min(0)
        codes.append(f)
        out.append(((f / lengths) @ t["W_dec"] + t["b_dec"]) * scale + shift)
    return torch.stack(codes), torch.stack(out)


def close(actual: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("architecture", "rescale"), [*((name, False) for name in VECTORS), ("topk", True)])
def test_codes_reconstruction_and_directions_follow_the_formula(
    architecture: str, rescale: bool, normalization: str, apply_b_dec: bool, tmp_path: Path
) -> None:
    tensors = tensors_for(architecture)
    changes = {"rescale_acts_by_decoder_norm": rescale} if architecture == "topk" else {}
    config = config_for(architecture, normalize_activations=normalization, apply_b_dec_to_input=apply_b_dec, **changes)
    sae = load(write(tmp_path, tensors, config))
    x = torch.randn(20, D) * 3 + 1
    f, back = formula(x, tensors, config)
    close(sae.encode(x), f)
    close(sae.codes(x, [5, 30, 0]), f[:, [5, 30, 0]])
    close(sae.reconstruct(x), back)
    rows = tensors["W_dec"][[5, 30, 0]]
    close(sae.direction([5, 30, 0]), rows / rows.norm(dim=1, keepdim=True) if rescale else rows)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_direction_times_the_token_scale_is_what_the_reconstruction_gains(normalization: str, tmp_path: Path) -> None:
    tensors, config = tensors_for("standard"), config_for("standard", normalize_activations=normalization)
    sae = load(write(tmp_path, tensors, config))
    x = torch.randn(6, D) * 3
    f, back = formula(x, tensors, config)
    f[:, 9] += 1
    close(sae.decode(f, like=x) - back, sae.token_scale(x) * sae.direction([9]))


@every_architecture
def test_loading_for_directions_reads_those_rows_alone(architecture: str, tmp_path: Path) -> None:
    sae = load(write(tmp_path, tensors_for(architecture), config_for(architecture)))
    sae.direction([2, 3, 20])
    assert sae.weights.tensors["decoder"].source.bytes_read == 3 * 4 * D
    assert sae.weights.materialised == ()


@every_half
@every_architecture
def test_half_precision_files_are_read_as_they_are(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    stored = {key: tensor.to(dtype) for key, tensor in tensors_for(architecture).items()}
    sae = load(write(tmp_path, stored, config_for(architecture)))
    x = torch.randn(20, D)
    f, back = formula(x, {key: tensor.float() for key, tensor in stored.items()}, config_for(architecture))
    close(sae.encode(x), f)
    close(sae.reconstruct(x), back)


@pytest.mark.parametrize("name", GOLDENS)
def test_reference_checkpoints(name: str) -> None:
    path = golden(f"saelens_{name}")
    sae, reference = load(path), expected(path)
    close(sae.encode(reference["x"]), reference["f"])
    close(sae.decode(reference["f"], like=reference["x"]), reference["xhat"])
    close(sae.reconstruct(reference["x"]), reference["xhat"])


@every_half
@pytest.mark.parametrize("name", GOLDENS)
def test_rounded_reference_checkpoints(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = golden(f"saelens_{name}")
    reference, sae = expected(path), load(copy_as(path, tmp_path, dtype))
    tolerance = 20 * torch.finfo(dtype).eps * float(reference["f"].max())
    close(sae.decode(reference["f"], like=reference["x"]), reference["xhat"], tolerance)
    same = (sae.encode(reference["x"]) - reference["f"]).abs() <= tolerance
    assert same.float().mean() > 0.98, "rounding may move a code over its threshold, rarely"


@pytest.mark.parametrize("rescale", [True, False])
def test_the_average_norm_of_a_data_set_is_folded_into_the_weights(rescale: bool, tmp_path: Path) -> None:
    """W_enc times s, W_dec and b_dec divided by s: what SAELens does with the factor of a release."""
    s, tensors = 0.25, tensors_for("topk")
    folded = tensors | {"W_enc": tensors["W_enc"] * s, "W_dec": tensors["W_dec"] / s, "b_dec": tensors["b_dec"] / s}
    config = config_for("topk", rescale_acts_by_decoder_norm=rescale)
    unfolded = config | {"normalize_activations": "expected_average_only_in", "norm_scaling_factor": s}
    sae = load(write(tmp_path, tensors, unfolded))
    x = torch.randn(20, D) * 8
    f, back = formula(x, folded, config)
    close(sae.encode(x), f)
    close(sae.reconstruct(x), back)


@pytest.mark.parametrize("factor", [{}, {"norm_scaling_factor": None}, {"norm_scaling_factor": 0}])
def test_the_average_norm_of_a_data_set_is_not_guessed(factor: dict[str, object], tmp_path: Path) -> None:
    config = config_for("standard", normalize_activations="expected_average_only_in", **factor)
    with pytest.raises(ValueError, match=r"sae_weights.safetensors: .*norm_scaling_factor, a positive number"):
        load(write(tmp_path, tensors_for("standard"), config))


def test_the_site_comes_from_the_hook_name(tmp_path: Path) -> None:
    hook = {"hook_name": "transformer_blocks.3.ff_context"}
    path = write(tmp_path, tensors_for("standard"), config_for("standard", metadata=hook))
    assert str(load(path).site) == "transformer_blocks.3.ff_context (text)"
    path = write(tmp_path, tensors_for("standard"), config_for("standard", metadata={"hook_name": "blocks.5.resid"}))
    assert load(path).site is None


def test_a_file_without_its_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sae_weights.safetensors: .*there is no cfg.json beside it"):
        load(write(tmp_path, tensors_for("standard")))


PURSUIT = {"max_iterations": K, "residual_threshold": 0.0, "stop_on_duplicate_support": False}


def pursuit(folder: Path, **changes: object) -> tuple[Path, dict[str, Tensor]]:
    tensors = {name: tensor for name, tensor in tensors_for("standard").items() if name in ("W_dec", "b_dec")}
    tensors["W_dec"] = 0.8 * torch.nn.functional.normalize(tensors["W_dec"], dim=1)  # short: features are chosen twice
    return write(folder, tensors, config_for("matching_pursuit", **PURSUIT | changes)), tensors


def test_matching_pursuit_chooses_one_feature_after_another(tmp_path: Path) -> None:
    path, tensors = pursuit(tmp_path)
    sae, x = load(path), torch.randn(40, D)
    wanted = torch.zeros(40, F)
    for row, token in enumerate(x):
        left = token - tensors["b_dec"]
        for _ in range(K):
            fits = [float(left @ direction) for direction in tensors["W_dec"]]
            best = max(range(F), key=fits.__getitem__)
            wanted[row, best] += max(fits[best], 0.0)
            left = left - max(fits[best], 0.0) * tensors["W_dec"][best]
    assert str(sae.architecture) == f"matching_pursuit k={K}"
    close(sae.encode(x), wanted)
    close(sae.codes(x, [3, 0]), wanted[:, [3, 0]])
    close(sae.reconstruct(x), wanted @ tensors["W_dec"] + tensors["b_dec"])
    active = (sae.encode_sparse(x).values > 0).sum(1)
    assert torch.equal(active, (wanted > 0).sum(1)) and active.min() < K  # some were chosen twice, and count once


@pytest.mark.parametrize(
    "change", [{"residual_threshold": 0.01}, {"stop_on_duplicate_support": True}, {"apply_b_dec_to_input": False}]
)
def test_a_pursuit_that_may_end_early_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="describes a matching pursuit that may end early; accepted are max_iter"):
        load(pursuit(tmp_path, **change)[0])


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder", "jumprelu_transcoder"])
def test_transcoders_are_refused_by_architecture(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sae_weights.safetensors: this is a transcoder"):
        load(write(tmp_path, tensors_for("standard"), config_for(architecture)))


@pytest.mark.parametrize("change", [{"d_out": D + 1}, {"is_transcoder": True}, {"transcode": True}])
def test_transcoders_are_refused_by_config(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this is a transcoder"):
        load(write(tmp_path, tensors_for("standard"), config_for("standard", **change)))


@pytest.mark.parametrize("name", ["W_skip", "b_dec_out"])
def test_transcoders_are_refused_by_tensors(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this is a transcoder"):
        load(write(tmp_path, tensors_for("standard") | {name: torch.zeros(D, D)}, config_for("standard")))


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("standard", {"d_in": D + 1}, f"says d_in = {D + 1}, but the tensors have {D}"),
        ("standard", {"d_sae": F - 1}, f"says d_sae = {F - 1}, but the tensors have {F}"),
        ("standard", {"architecture": "temporal"}, "architecture 'temporal' is not known"),
        ("standard", {"architecture": "gated"}, "lacks the tensor 'b_gate'"),
        ("jumprelu", {"architecture": "standard"}, "unknown tensor 'threshold'"),
        ("standard", {"activation_fn_str": "softmax"}, "activation_fn_str = 'softmax'"),
        ("gated", {"activation_fn_str": "topk"}, "activation_fn_str = 'topk'; a gated one is read with relu only"),
        ("standard", {"architecture": None}, "architecture None is not known"),
        ("standard", {"normalize_activations": "batch"}, "normalize_activations = 'batch'"),
        ("standard", {"reshape_activations": "hook_z"}, "reshape_activations = 'hook_z'"),
        ("topk", {"k": F + 1}, f"k is {F + 1}, but must lie between 1 and"),
        ("topk", {"k": None}, "must give k as a whole number"),
    ],
)
def test_a_config_that_contradicts_the_file_is_refused(
    architecture: str, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"sae_weights.*{message}"):
        load(write(tmp_path, tensors_for(architecture), config_for(architecture) | change))
