"""RE-N-Y's TopK layout: config.json and model.safetensors (github.com/RE-N-Y/finebooru).

In its config `features` is the width of the activations and `pages` the number of features. It has no entry for the
place, which RE-N-Y's repositories tell by their names: here the header of the weight file has it, where other readers
do not look, and a folder such as cc3m-transformer_blocks.18-image tells everybody.
"""

from __future__ import annotations

import torch

from ..dictionary.autoencoder import SparseAutoencoder
from ..formats.provenance import provenance
from ..formats.reny import HOOK
from .plain_sae import cannot_fold, hook_name, plain, refuse_place
from .tensor_plan import Layout, Stored

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def refuse(sae: SparseAutoencoder) -> str | None:
    if sae.architecture.kind != "topk":
        return f"it holds topk SAEs only, and this one is {sae.architecture.kind}"
    if sae.architecture.normalization != "none":
        return f"it has no normalisation, and this one has {sae.architecture.normalization.replace('_', ' ')}"
    return cannot_fold(sae) or refuse_place(sae)


def layout(sae: SparseAutoencoder, dtype: torch.dtype | None) -> Layout:
    weights = plain(sae, centred=True, dtype=dtype)
    tensors: dict[str, Stored] = {
        "bias": weights.vectors["output_bias"],
        "encoder.weight": weights.encoder,
        "encoder.bias": weights.vectors["encoder_bias"],
        "decoder.weight": weights.decoder.as_columns(),
    }
    config = {"features": sae.d_in, "k": sae.architecture.k, "pages": sae.d_sae, "sample": None}
    hook = hook_name(sae)
    return Layout(tensors, config, provenance(sae) if hook is None else {HOOK: hook, **provenance(sae)})
