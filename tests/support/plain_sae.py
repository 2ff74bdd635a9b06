"""Small SAEs of every kind, and what they must compute, in the plain dense way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.dictionary.autoencoder import Architecture, SparseAutoencoder

D_IN, D_SAE = 12, 40
KINDS = {
    "topk": Architecture("topk", k=5),
    "topk without relu": Architecture("topk", k=30, rectify=False),
    "topk rescaled": Architecture("topk", k=5, decoder_norm="before"),
    "topk layer norm": Architecture("topk", k=5, normalization="layer_norm", decoder_norm="before"),
    "relu": Architecture("relu"),
    "relu constant norm": Architecture("relu", normalization="constant_norm"),
    "relu with norm": Architecture("relu", decoder_norm="after"),
    "jumprelu": Architecture("jumprelu"),
    "gated": Architecture("gated", decoder_norm="after"),
    "batchtopk": Architecture("batchtopk"),
}
every_kind = pytest.mark.parametrize("architecture", KINDS.values(), ids=KINDS.keys())


def tensors_for(architecture: Architecture, d_in: int = D_IN, d_sae: int = D_SAE) -> dict[str, Tensor]:
    torch.manual_seed(3)
    tensors = {
        "encoder": torch.randn(d_sae, d_in),
        "decoder": torch.randn(d_sae, d_in) * 0.5,
        "input_bias": torch.randn(d_in) * 0.3,
        "output_bias": torch.randn(d_in) * 0.3,
    }
    if architecture.kind == "gated":
        tensors |= {name: torch.randn(d_sae) * 0.4 for name in ("gate_bias", "magnitude_bias", "r_mag")}
    else:
        tensors["encoder_bias"] = torch.randn(d_sae) * 0.3
    if architecture.kind == "jumprelu":
        tensors["threshold"] = torch.rand(d_sae) * 3
    if architecture.kind == "batchtopk":
        tensors["threshold"] = torch.tensor(2.0)
    return tensors


def build(architecture: Architecture) -> SparseAutoencoder:
    return SparseAutoencoder.from_tensors(tensors_for(architecture), architecture)


def expected_codes(x: Tensor, t: dict[str, Tensor], architecture: Architecture) -> Tensor:
    """Every kind in the plain dense way."""
    if architecture.normalization == "layer_norm":
        x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
    if architecture.normalization == "constant_norm":
        x = x * x.shape[-1] ** 0.5 / x.norm(dim=-1, keepdim=True)
    pre = (x - t["input_bias"]) @ t["encoder"].T
    norms = t["decoder"].norm(dim=1)
    if architecture.kind == "gated":
        open_gate = (pre + t["gate_bias"] > 0).float()
        return open_gate * torch.relu(torch.exp(t["r_mag"]) * pre + t["magnitude_bias"]) * norms
    pre = pre + t["encoder_bias"]
    if architecture.decoder_norm != "none":
        pre = pre * norms
    if architecture.kind in ("jumprelu", "batchtopk"):
        return torch.relu(pre) * (pre > t["threshold"])
    if architecture.kind == "topk":
        assert architecture.k is not None
        kept = torch.zeros_like(pre).scatter(-1, pre.argsort(-1, descending=True)[..., : architecture.k], 1.0)
        return (pre if not architecture.rectify else torch.relu(pre)) * kept
    return torch.relu(pre)


def expected_reconstruction(x: Tensor, f: Tensor, t: dict[str, Tensor], architecture: Architecture) -> Tensor:
    rows = t["decoder"]
    if architecture.decoder_norm != "none":
        rows = rows / rows.norm(dim=1, keepdim=True)
    out = f @ rows + t["output_bias"]
    if architecture.normalization == "layer_norm":
        return out * x.std(-1, keepdim=True) + x.mean(-1, keepdim=True)
    if architecture.normalization == "constant_norm":
        return out * x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
    return out


def close(actual: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance)
