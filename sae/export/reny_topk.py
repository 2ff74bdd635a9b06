"""RE-N-Y's TopK layout: config.json and model.safetensors (github.com/RE-N-Y/finebooru).

In its config `features` is the width of the activations and `pages` the number of features. It has no entry for the
site: the folder's name tells it, as in cc3m-transformer_blocks.18-image.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..autoencoder import SparseAutoencoder
from ..site import site_from_name
from .place import name_of, refuse_place
from .plain import cannot_fold, plain
from .planned import Layout, Stored

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def refuse(sae: SparseAutoencoder) -> str | None:
    if sae.architecture.kind != "topk":
        return f"it holds topk SAEs only, and this one is {sae.architecture.kind}"
    if sae.architecture.normalization != "none":
        return f"it has no normalisation, and this one has {sae.architecture.normalization.replace('_', ' ')}"
    return cannot_fold(sae) or refuse_place(sae)


def refuse_folder(sae: SparseAutoencoder, folder: Path) -> str | None:
    if sae.site is None or site_from_name(f"{folder.name}/{WEIGHTS}") == sae.site:
        return None
    name = name_of(sae.site)
    return (
        f"in the reny_topk layout the folder's name tells the place, and {folder.name!r} does not tell {sae.site}; "
        f"call it {name} or {folder.name}-{name}"
    )


def layout(sae: SparseAutoencoder, dtype: torch.dtype | None) -> Layout:
    weights = plain(sae, centred=True, dtype=dtype)
    tensors: dict[str, Stored] = {
        "bias": weights.vectors["output_bias"],
        "encoder.weight": weights.encoder,
        "encoder.bias": weights.vectors["encoder_bias"],
        "decoder.weight": weights.decoder.as_columns(),
    }
    config = {"features": sae.d_in, "k": sae.architecture.k, "pages": sae.d_sae, "sample": None}
    return Layout(tensors, config)
