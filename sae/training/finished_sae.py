"""Writes a trained SAE: TopK in the layout of the RE-N-Y checkpoints, the others in our own."""

from __future__ import annotations

from pathlib import Path

import torch

from ..dictionary.activations import Architecture
from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.owner import Origin, TrainedOn
from ..dictionary.statistics import FeatureStatistics
from ..export import export
from ..formats.own import LAYOUTS
from ..places.site import Site
from .topk import TopKModel


def export_topk(
    model: TopKModel,
    folder: Path,
    statistics: FeatureStatistics | None = None,
    dtype: torch.dtype = torch.float32,
    site: Site | None = None,
    trained_on: TrainedOn | None = None,
) -> Path:
    """Writes model.safetensors, with statistics their file too; returns the path of the weights.

    Where it is known on which model it was trained, our layout is written, which keeps that.

    TopK gets RE-N-Y's layout with its config.json: it has no entry for the site, so the header of the weights carries
    it, whatever the folder is called. BatchTopK and Matryoshka get ours, with the threshold that stands in for the
    batch.
    """
    config = model.config
    if statistics is not None and statistics.count != config.d_sae:
        raise ValueError(
            f"statistics: they describe {statistics.count} features, but the SAE has {config.d_sae}; "
            "give statistics measured with this SAE."
        )
    sae = trained_sae(model, site, statistics)
    sae.trained_on = trained_on
    if config.over_batch:  # what dictionary_learning asks for, and nothing here does
        sae.origin = Origin(LAYOUTS, (), {"trained_k": config.k})
    own = config.over_batch or trained_on is not None
    return export(sae, folder, "sae_steering" if own else "reny_topk", dtype, replace=True)


def trained_sae(
    model: TopKModel, site: Site | None = None, statistics: FeatureStatistics | None = None
) -> SparseAutoencoder:
    """The trained SAE as the rest of the library uses it, in memory."""
    config = model.config
    tensors = {
        "input_bias": model.centre,
        "output_bias": model.centre,
        "encoder": model.encoder,
        "encoder_bias": model.encoder_bias * model.scale,
        "decoder": model.decoder,
    }
    if config.over_batch:
        tensors["threshold"] = (model.threshold * model.scale).expand(config.d_sae)
    architecture = Architecture("batchtopk") if config.over_batch else Architecture("topk", k=config.k)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return SparseAutoencoder.from_tensors(stored, architecture, site=site, statistics=statistics)
