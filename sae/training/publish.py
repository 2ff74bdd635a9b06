"""Writes a trained TopK SAE in the layout of the RE-N-Y checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from ..dictionary.activations import Architecture
from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.statistics import FeatureStatistics
from ..export import export
from ..places.site import Site
from .topk import TopKModel


def export_topk(
    model: TopKModel,
    folder: Path,
    statistics: FeatureStatistics | None = None,
    dtype: torch.dtype = torch.float32,
    site: Site | None = None,
) -> Path:
    """Writes config.json and model.safetensors, with statistics their file too; returns the path of the weights.

    The layout has no entry for the site, so the header of the weights carries it, whatever the folder is called.
    """
    config = model.config
    if statistics is not None and statistics.count != config.d_sae:
        raise ValueError(
            f"statistics: they describe {statistics.count} features, but the SAE has {config.d_sae}; "
            "give statistics measured with this SAE."
        )
    tensors = {
        "input_bias": model.centre,
        "output_bias": model.centre,
        "encoder": model.encoder,
        "encoder_bias": model.encoder_bias * model.scale,
        "decoder": model.decoder,
    }
    stored = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    sae = SparseAutoencoder.from_tensors(stored, Architecture("topk", k=config.k), site=site, statistics=statistics)
    return export(sae, folder, "reny_topk", dtype, replace=True)
