"""SAELens 6: cfg.json and sae_weights.safetensors (github.com/decoderesearch/SAELens).

BatchTopK SAEs become jumprelu ones, as SAELens itself exports them.
"""

from __future__ import annotations

from typing import Any

import torch

from ..dictionary.autoencoder import SparseAutoencoder
from ..formats.provenance import provenance
from .plain_sae import cannot_fold, decoder_norms, hook_name, plain, refuse_place, same_biases
from .tensor_plan import Layout, Stored

WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"
VERSION = "6.54.12"  # the one that the exports are tested with; without a version SAELens takes a config for an old one
_NAMES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "batchtopk": "jumprelu", "gated": "gated"}
_KEYS = {
    "encoder_bias": "b_enc",
    "threshold": "threshold",
    "gate_bias": "b_gate",
    "magnitude_bias": "b_mag",
    "r_mag": "r_mag",
    "output_bias": "b_dec",
}
_NORMALIZATIONS = {"none": "none", "layer_norm": "layer_norm", "constant_norm": "constant_norm_rescale"}


def refuse(sae: SparseAutoencoder) -> str | None:
    return cannot_fold(sae) or refuse_place(sae)


def layout(sae: SparseAutoencoder, dtype: torch.dtype | None) -> Layout:
    rescaled = _rescaled(sae)
    centred = same_biases(sae)
    weights = plain(sae, centred, dtype, fold_norms=not rescaled)
    tensors: dict[str, Stored] = {"W_enc": weights.encoder.as_columns(), "W_dec": weights.decoder}
    tensors |= {_KEYS[name]: vector for name, vector in weights.vectors.items()}
    config: dict[str, Any] = {
        "architecture": _NAMES[sae.architecture.kind],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(torch.promote_types(weights.encoder.dtype, weights.decoder.dtype)).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": centred,
        "normalize_activations": _NORMALIZATIONS[sae.architecture.normalization],
        "reshape_activations": "none",
        "metadata": _metadata(sae),
    }
    if sae.architecture.kind == "topk":
        config |= {"k": sae.architecture.k, "rescale_acts_by_decoder_norm": rescaled}
    return Layout(tensors, config)


def _rescaled(sae: SparseAutoencoder) -> bool:
    """Whether SAELens' own option takes care of the norms; it divides by them, so none may be 0."""
    norms_count = sae.architecture.kind == "topk" and sae.architecture.decoder_norm != "none"
    return norms_count and bool((decoder_norms(sae) > 0).all())


def _metadata(sae: SparseAutoencoder) -> dict[str, str]:
    known = provenance(sae)
    told = {
        "sae_lens_version": VERSION,
        "hook_name": hook_name(sae),
        "model_name": known.get("model"),
        "licence": known.get("licence"),
        "source": known.get("source"),
    }
    return {key: text for key, text in told.items() if text is not None}
