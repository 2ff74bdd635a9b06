"""Small SAEs of every kind with random weights, and their codes and reconstructions written the plain dense way."""

from __future__ import annotations

import torch
from torch import Tensor

from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.dictionary.statistics import FeatureStatistics
from sae.places.site import Site

D_IN, D_SAE = 12, 40
ARCHITECTURES = {
    "topk": Architecture("topk", k=6),
    "relu": Architecture("relu"),
    "jumprelu": Architecture("jumprelu"),
    "gated": Architecture("gated"),
    "batchtopk": Architecture("batchtopk"),
    "layer_norm": Architecture("topk", k=6, normalization="layer_norm"),
    "unit decoder": Architecture("relu", normalization="constant_norm", decoder_norm="after"),
}


def tensors_of(kind: str, d_in: int = D_IN, d_sae: int = D_SAE) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    tensors = {"encoder": draw(d_sae, d_in), "decoder": 0.4 * draw(d_sae, d_in)}
    tensors |= {"input_bias": 0.3 * draw(d_in), "output_bias": 0.3 * draw(d_in)}
    architecture = ARCHITECTURES[kind]
    if architecture.kind == "gated":
        tensors |= {name: 0.3 * draw(d_sae) for name in ("gate_bias", "magnitude_bias", "r_mag")}
    else:
        tensors["encoder_bias"] = 0.3 * draw(d_sae)
    if architecture.kind == "jumprelu":
        tensors["threshold"] = draw(d_sae).abs() * 2
    if architecture.kind == "batchtopk":
        tensors["threshold"] = torch.tensor(2.0)
    return tensors


def small_sae(
    kind: str = "topk",
    d_in: int = D_IN,
    d_sae: int = D_SAE,
    statistics: FeatureStatistics | None = None,
    site: Site | None = None,
) -> SparseAutoencoder:
    tensors = tensors_of(kind, d_in, d_sae)
    return SparseAutoencoder.from_tensors(
        tensors, ARCHITECTURES[kind], name=f"my {kind}", statistics=statistics, site=site
    )


def dense_frame(kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, shift) of each token: x = scale · normalised + shift."""
    if ARCHITECTURES[kind].normalization == "layer_norm":
        return x.std(-1, keepdim=True), x.mean(-1, keepdim=True)
    if ARCHITECTURES[kind].normalization == "constant_norm":
        return x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5, torch.zeros_like(x[..., :1])
    return torch.ones_like(x[..., :1]), torch.zeros_like(x[..., :1])


def dense_codes(kind: str, x: Tensor) -> Tensor:
    """f (..., d_sae), with the codes of every feature at once."""
    t, architecture = tensors_of(kind, x.shape[-1]), ARCHITECTURES[kind]
    scale, shift = dense_frame(kind, x)
    epsilon = 1e-5 if architecture.normalization == "layer_norm" else 0.0
    pre = ((x - shift) / (scale + epsilon) - t["input_bias"]) @ t["encoder"].T
    if architecture.kind == "gated":
        magnitude = (pre * t["r_mag"].exp() + t["magnitude_bias"]).clamp(min=0)
        return torch.where(pre + t["gate_bias"] > 0, magnitude, torch.zeros_like(pre))
    pre = pre + t["encoder_bias"]
    if architecture.decoder_norm == "after":
        return pre.clamp(min=0) * t["decoder"].norm(dim=1)
    if architecture.kind == "topk":
        kth = pre.sort(-1, descending=True).values[..., 5:6]  # k = 6
        return torch.where(pre >= kth, pre, torch.zeros_like(pre)).clamp(min=0)
    threshold = t.get("threshold", torch.tensor(0.0))
    return torch.where(pre > threshold, pre, torch.zeros_like(pre)).clamp(min=0)


def dense_directions(kind: str, d_in: int = D_IN) -> Tensor:
    """(d_sae, d_in): what the reconstruction gains, before the token's scale."""
    rows = tensors_of(kind, d_in)["decoder"]
    return rows / rows.norm(dim=1, keepdim=True) if ARCHITECTURES[kind].decoder_norm == "after" else rows


def dense_decode(kind: str, f: Tensor, x: Tensor) -> Tensor:
    """Codes of the tokens x as activations; the normalisation is undone."""
    scale, shift = dense_frame(kind, x)
    return (f @ dense_directions(kind, x.shape[-1]) + tensors_of(kind, x.shape[-1])["output_bias"]) * scale + shift
