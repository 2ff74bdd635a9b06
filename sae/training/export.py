"""Writes a trained TopK SAE in the layout of the RE-N-Y checkpoints (formats.md calls it A1)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..statistics import FeatureStatistics, statistics_path, write_statistics
from .topk import TopKModel


def export_topk(
    model: TopKModel,
    folder: Path,
    statistics: FeatureStatistics | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes config.json, model.safetensors and, with statistics, model.stats.safetensors; returns the weights' path.

    In this layout `features` is the width of the activations and `pages` the number of features.
    """
    config = model.config
    if statistics is not None and statistics.count != config.d_sae:
        raise ValueError(
            f"statistics: they describe {statistics.count} features, but the SAE has {config.d_sae}; "
            "give statistics measured with this SAE."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "bias": model.centre,
        "encoder.weight": model.encoder,
        "encoder.bias": model.encoder_bias * model.scale,
        "decoder.weight": model.decoder.T,  # (d_in, d_sae)
    }
    weights = folder / "model.safetensors"
    save_file({name: t.detach().to("cpu", dtype).contiguous() for name, t in tensors.items()}, weights)
    layout = {"features": config.d_in, "k": config.k, "pages": config.d_sae, "sample": None}
    (folder / "config.json").write_text(json.dumps(layout, indent=2) + "\n", encoding="utf-8")
    if statistics is not None:
        write_statistics(statistics, statistics_path(weights))
    return weights
