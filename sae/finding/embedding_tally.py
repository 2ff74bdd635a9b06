"""Which features fire on an embedding."""

from __future__ import annotations

from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from .features import FeatureTally


def tally_tokens(sae: SparseAutoencoder, x: Tensor) -> FeatureTally:
    """Which features fire on tokens x (batch, tokens, d_in)."""
    tally = FeatureTally(sae.d_sae)
    tally.add(sae.encode_sparse(x))
    return tally
