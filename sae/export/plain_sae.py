"""An SAE in the plain terms of other layouts: what is peculiar to it is folded into its weights, exactly.

With p = W(x − b) + c, and n the norm of a decoder row:
- codes that carry the norm, a(n p) or n a(p): encoder row and bias times n, decoder row through n. A threshold t stays
  in a(n p) and becomes n t in n a(p), for n p > n t ⇔ p > t; likewise a gate's biases, for n > 0. Where n = 0 the code
  is 0 either way.
- another bias b' on the input: W(x − b) + c = W(x − b') + (c − W(b − b')).
- a gate with a bias c of its own: its gate bias grows by c, its magnitude bias by e^r c.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..dictionary.activations import VECTORS
from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.weights import Weight
from ..places.site import Site, site_from_name
from .tensor_plan import Matrix

BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Plain:
    """p = W(x − b') + encoder_bias, codes as `kind` says, x̂ = f · decoder + output_bias.

    `vectors` holds encoder_bias (not for gated), output_bias, and what the kind needs; thresholds are (F,).
    """

    encoder: Matrix
    decoder: Matrix
    vectors: dict[str, Tensor]


def cannot_fold(sae: SparseAutoencoder) -> str | None:
    """What only our own layout holds, or None."""
    if sae.transcoder:
        return "it is a transcoder"
    architecture = sae.architecture
    if sae.modulation is not None:
        return "its codes depend on the noise level"
    if architecture.kind == "groupmax":
        return f"it keeps the largest of each of {architecture.k} groups"
    if architecture.kind == "matching_pursuit":
        return "it chooses its features one after another"
    if architecture.kind == "tanh_relu":
        return "its activation function is tanh"
    if architecture.kind == "gated_topk":
        return f"its gates open after the {architecture.k} largest are chosen"
    if architecture.kind == "signed_topk":
        return "it keeps the largest by size, so its codes may be negative"
    if not architecture.rectify and architecture.kind in ("topk", "relu"):
        return "it has no ReLU, so its codes may be negative"
    if not architecture.rectify and architecture.kind != "gated" and bool((_threshold(sae) < 0).any()):
        return "it has no ReLU and negative thresholds, so its codes may be negative"
    return None


def shared_threshold(sae: SparseAutoencoder) -> float | None:
    """The threshold of all features once norms are folded; None where they have their own."""
    threshold = _threshold(sae).reshape(-1)
    if sae.architecture.decoder_norm == "after" or not bool((threshold == threshold[0]).all()):
        return None
    return float(threshold[0])


def same_biases(sae: SparseAutoencoder) -> bool:
    """Whether what is taken off the input is what is added to the output."""
    before, after = (sae.weights.optional_vector(name) for name in ("input_bias", "output_bias"))
    return before is not None and after is not None and torch.equal(before, after)


def decoder_norms(sae: SparseAutoencoder) -> Tensor:
    """(F,) float32"""
    return sae.weights.tensors["decoder"].norms()


def plain(sae: SparseAutoencoder, centred: bool, dtype: torch.dtype | None, fold_norms: bool = True) -> Plain:
    """The SAE for a target that takes its output bias off the input (`centred`), or nothing.

    Matrices keep their type, but one of 16 bits that has to be computed anew becomes float32; vectors are float32.
    With a `dtype` all are of that. With `fold_norms` unset the decoder norms are left to the target.
    """
    weights = sae.weights
    output_bias = weights.optional_vector("output_bias")
    output_bias = torch.zeros(sae.d_in) if output_bias is None else output_bias
    vectors = {name: _spread(sae, name) for name in VECTORS[sae.architecture.kind]}
    bias = _encoder_bias(sae, output_bias if centred else torch.zeros(sae.d_in))
    norms = decoder_norms(sae) if fold_norms and sae.architecture.decoder_norm != "none" else None
    if sae.architecture.kind == "gated":
        _fold_into_gate(sae, vectors, bias, norms)
    else:
        vectors["encoder_bias"] = bias if norms is None else bias * norms
        if norms is not None and sae.architecture.decoder_norm == "after" and "threshold" in vectors:
            vectors["threshold"] = vectors["threshold"] * norms
    vectors["output_bias"] = output_bias
    through = None if norms is None else torch.where(norms > 0, 1 / norms, 0.0)
    return Plain(
        matrix(weights.tensors["encoder"], dtype, norms),
        matrix(weights.tensors["decoder"], dtype, through),
        {name: vector.to(dtype or torch.float32) for name, vector in vectors.items()},
    )


def matrix(weight: Weight, dtype: torch.dtype | None, factors: Tensor | None = None) -> Matrix:
    stored = weight.source.stored_dtype(weight.key)
    return Matrix(weight, dtype or (stored if factors is None else torch.float32), factors)


def _threshold(sae: SparseAutoencoder) -> Tensor:
    threshold = sae.weights.optional_vector("threshold")
    return torch.zeros(1) if threshold is None else threshold


def _spread(sae: SparseAutoencoder, name: str) -> Tensor:
    """(F,) float32, zeros where the SAE has none; one threshold for all is repeated."""
    vector = sae.weights.optional_vector(name)
    return torch.zeros(sae.d_sae) if vector is None else vector.expand(sae.d_sae)


def _encoder_bias(sae: SparseAutoencoder, subtracted: Tensor) -> Tensor:
    """(F,): the encoder's bias if `subtracted` is taken off the input in place of the SAE's own bias."""
    bias = _spread(sae, "encoder_bias")
    own = sae.weights.optional_vector("input_bias")
    shift = (torch.zeros(sae.d_in) if own is None else own) - subtracted
    if not shift.any():
        return bias
    encoder = sae.weights.tensors["encoder"].whole().detach().cpu()
    return bias - torch.cat([rows.float() @ shift for rows in encoder.split(BLOCK_ROWS)])


def _fold_into_gate(sae: SparseAutoencoder, vectors: dict[str, Tensor], bias: Tensor, norms: Tensor | None) -> None:
    """`bias` (F,) of the encoder, and the norms where the encoder's rows will be multiplied by them."""
    grown = {"gate_bias": bias, "magnitude_bias": vectors["r_mag"].exp() * bias}
    for name, added in grown.items():
        if norms is not None and sae.architecture.decoder_norm == "before":
            added = added * norms
        vectors[name] = vectors[name] + added
        if norms is not None and sae.architecture.decoder_norm == "after":
            vectors[name] = vectors[name] * norms


def hook_name(sae: SparseAutoencoder) -> str | None:
    """The config's own words for the place if they still mean it, else such as `transformer_blocks.18-image`."""
    told = sae.origin.hook if sae.origin else None
    if sae.site is None or (told is not None and site_from_name(told) == sae.site):
        return told
    return name_of(sae.site)


def name_of(site: Site) -> str | None:
    """The site as file names tell it; None for one of several blocks."""
    name = f"{site.location}-{site.stream}"
    return name if site_from_name(name) == site else None


def refuse_place(sae: SparseAutoencoder) -> str | None:
    """Why no name tells the place, or None."""
    if sae.site is not None and name_of(sae.site) is None:
        return f"it has no word for a place of several blocks such as {sae.site}"
    return None
