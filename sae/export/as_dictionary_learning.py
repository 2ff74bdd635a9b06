"""dictionary_learning: config.json and ae.pt, a state dict (github.com/saprmarks/dictionary_learning).

A relu SAE becomes an AutoEncoderNew: its AutoEncoder makes decoder rows unit length when it is loaded, which would
change the codes.
"""

from __future__ import annotations

from typing import Any

import torch

from ..dictionary.autoencoder import SparseAutoencoder
from ..formats.provenance import provenance, trained_k
from .plain_sae import Plain, cannot_fold, hook_name, plain, refuse_place, shared_threshold
from .tensor_plan import Layout, Stored

WEIGHTS = "ae.pt"
CONFIG = "config.json"
_CLASSES = {
    "relu": "AutoEncoderNew",
    "topk": "AutoEncoderTopK",
    "batchtopk": "BatchTopKSAE",
    "jumprelu": "JumpReluAutoEncoder",
    "gated": "GatedAutoEncoder",
}
_UNCENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")  # these take nothing off the input
_GATED = {"gate_bias": "gate_bias", "mag_bias": "magnitude_bias", "r_mag": "r_mag"}  # stored name -> ours
_BIASES = {"AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
_UNMEASURED = -1.0  # an AutoEncoderTopK's threshold, which takes the place of k only when that is asked for


def refuse(sae: SparseAutoencoder) -> str | None:
    if sae.architecture.normalization != "none":
        return f"it has no normalisation, and this one has {sae.architecture.normalization.replace('_', ' ')}"
    return cannot_fold(sae) or refuse_place(sae)


def layout(sae: SparseAutoencoder, dtype: torch.dtype | None) -> Layout:
    name = _class(sae)
    weights = plain(sae, name not in _UNCENTRED, dtype)
    tensors = _jumprelu(weights) if name == "JumpReluAutoEncoder" else _linear(sae, name, weights)
    trainer: dict[str, Any] = {"dict_class": name, "activation_dim": sae.d_in, "dict_size": sae.d_sae}
    known = provenance(sae)
    told = {
        "k": sae.architecture.k if name == "AutoEncoderTopK" else trained_k(sae),
        "submodule_name": hook_name(sae),
        "lm_name": known.get("model"),
        "licence": known.get("licence"),
        "source": known.get("source"),
    }
    trainer |= {key: value for key, value in told.items() if value is not None}
    return Layout(tensors, {"trainer": trainer, "buffer": {"d_submodule": sae.d_in}})


def _class(sae: SparseAutoencoder) -> str:
    """A BatchTopKSAE has one threshold and needs the k of its training; a JumpReluAutoEncoder needs neither."""
    name = _CLASSES[sae.architecture.kind]
    if name == "BatchTopKSAE" and (trained_k(sae) is None or shared_threshold(sae) is None):
        return "JumpReluAutoEncoder"
    return name


def _jumprelu(weights: Plain) -> dict[str, Stored]:
    return {
        "W_enc": weights.encoder.as_columns(),
        "b_enc": weights.vectors["encoder_bias"],
        "W_dec": weights.decoder,
        "b_dec": weights.vectors["output_bias"],
        "threshold": weights.vectors["threshold"],
    }


def _linear(sae: SparseAutoencoder, name: str, weights: Plain) -> dict[str, Stored]:
    vectors = weights.vectors
    tensors: dict[str, Stored] = {"encoder.weight": weights.encoder, "decoder.weight": weights.decoder.as_columns()}
    tensors[_BIASES.get(name, "b_dec")] = vectors["output_bias"]
    if name == "GatedAutoEncoder":
        return tensors | {key: vectors[own] for key, own in _GATED.items()}
    tensors["encoder.bias"] = vectors["encoder_bias"]
    if name == "AutoEncoderTopK":
        tensors["k"] = torch.tensor(sae.architecture.k, dtype=torch.int32)
        tensors["threshold"] = torch.tensor(_UNMEASURED)
    if name == "BatchTopKSAE":
        tensors["k"] = torch.tensor(trained_k(sae), dtype=torch.int32)
        tensors["threshold"] = torch.tensor(shared_threshold(sae))
    return tensors
