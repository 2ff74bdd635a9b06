"""Our own layout: everything, exactly. `sae/formats/own.py` describes and reads it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch

from ..dictionary.autoencoder import SparseAutoencoder
from ..formats.own import FORMAT, LAYOUTS, MODULATION
from ..formats.provenance import family_note, provenance, trained_k
from .plain_sae import hook_name, matrix
from .tensor_plan import Layout, Stored

WEIGHTS = "model.safetensors"
CONFIG = None


def refuse(sae: SparseAutoencoder) -> str | None:
    return None


def layout(sae: SparseAutoencoder, dtype: torch.dtype | None) -> Layout:
    tensors: dict[str, Stored] = {}
    for name, weight in sae.weights.tensors.items():
        whole = len(weight.shape) == 2
        tensors[name] = matrix(weight, dtype) if whole else weight.vector().to(dtype or torch.float32)
    if sae.modulation is not None:
        for name, tensor in sae.modulation.tensors.items():
            tensors[f"{MODULATION}{name}"] = tensor.to(dtype or tensor.dtype)
    description = json.dumps(_description(sae), sort_keys=True)
    return Layout(tensors, None, {"format": FORMAT, "sae": description})


def _description(sae: SparseAutoencoder) -> dict[str, Any]:
    description: dict[str, Any] = {"architecture": asdict(sae.architecture), **provenance(sae), **family_note(sae)}
    if sae.site is not None:
        description |= {"location": sae.site.location, "stream": sae.site.stream}
    if sae.contrast is not None:
        description["contrast"] = asdict(sae.contrast)
    if sae.transcoder:
        description["transcoder"] = True
    told = {"hook": hook_name(sae), "layout": _first_layout(sae), "trained_k": trained_k(sae)}
    return description | {key: value for key, value in told.items() if value is not None}


def _first_layout(sae: SparseAutoencoder) -> str | None:
    """The layout that the SAE was published in."""
    if sae.origin is None or sae.origin.layout != LAYOUTS:
        return sae.origin.layout if sae.origin else None
    told = sae.origin.config.get("layout")
    return told if isinstance(told, str) else None
