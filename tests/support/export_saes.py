"""The cases of export_cases.py as SAEs of the library."""

from __future__ import annotations

from typing import Any

import torch

from export_cases import CASES
from sae.dictionary.activations import Architecture
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.modulation import Modulation
from sae.dictionary.weights import Weights
from sae.places.site import parse_location

SITE = parse_location("transformer_blocks.3.attn", "text")
CONFIGS = {"saelens": "cfg.json", "reny_topk": "config.json", "dictionary_learning": "config.json"}
WEIGHTS = {
    "sae_steering": "model.safetensors",
    "saelens": "sae_weights.safetensors",
    "reny_topk": "model.safetensors",
    "dictionary_learning": "ae.pt",
}


def build(name: str, dtype: torch.dtype = torch.float32, **more: Any) -> SparseAutoencoder:
    """`more`: site, statistics and origin."""
    case = CASES[name]
    modulation = case.modulation()
    tensors = {key: tensor.to(dtype) for key, tensor in case.tensors().items()}
    return SparseAutoencoder(
        Weights.in_memory(tensors, Architecture(**case.architecture), "SAE in memory"),
        name=f"my {name}",
        modulation=Modulation(modulation) if modulation else None,
        **more,
    )
