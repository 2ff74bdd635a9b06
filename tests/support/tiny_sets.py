"""SAEs at several places of the small random FLUX of `tiny_flux`, each with weights of its own."""

from __future__ import annotations

import torch

from sae_steering_pack.sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae_steering_pack.sae.dictionary.owner import TrainedOn
from sae_steering_pack.sae.places.site import parse_location
from tiny_flux import D_SAE, WIDTH, random_for

PLACES = [
    ("transformer_blocks.0.attn", "image"),
    ("transformer_blocks.1.attn", "image"),
    ("single_transformer_blocks.1.attn", "image"),
]


def tensors(seed):
    random = random_for(seed)
    return {
        "encoder": torch.randn(D_SAE, WIDTH, generator=random) * 0.1,
        "encoder_bias": torch.randn(D_SAE, generator=random) * 0.3 + 1,
        "decoder": torch.randn(D_SAE, WIDTH, generator=random) * 0.1,
        "input_bias": torch.randn(WIDTH, generator=random) * 0.1,
        "output_bias": torch.randn(WIDTH, generator=random) * 0.1,
    }


def one(seed, place):
    site = parse_location(*place)
    sae = SparseAutoencoder.from_tensors(tensors(seed), Architecture("relu"), name=f"tiny {seed}", site=site)
    sae.trained_on = TrainedOn("FLUX.1")
    return sae
