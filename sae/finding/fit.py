"""How well an SAE reconstructs activations, in one pass and bounded memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..dictionary.activations import SparseCodes
from .features import FeatureTally


class Fit(NamedTuple):
    """How well an SAE does on `tokens` tokens."""

    explained_variance: float  # 1 - squared error / squared distance from the mean token
    l0: float  # mean number of active features of a token
    dead_share: float  # share of features that fired on no token
    cosine: float  # mean cosine between a token and its reconstruction, both taken from the SAE's bias
    tokens: int


class FitTally:
    """Running sums over tokens; float64 where many numbers add up."""

    def __init__(self, centre: Tensor, d_sae: int) -> None:
        """`centre` (d_in,) is the SAE's output bias."""
        wide, device = torch.float64, centre.device
        self.centre = centre
        self.token_sum = torch.zeros(len(centre), dtype=wide, device=device)
        self.square_sum = torch.zeros((), dtype=wide, device=device)
        self.error_sum = torch.zeros((), dtype=wide, device=device)
        self.cosine_sum = torch.zeros((), dtype=wide, device=device)
        self.features = FeatureTally(d_sae)

    def add(self, x: Tensor, codes: SparseCodes, rebuilt: Tensor) -> None:
        """Tokens x (n, d_in), their codes (n, m) and their reconstruction (n, d_in), all on the device of `centre`."""
        centred = (x - self.centre).double()  # sums around it lose less precision
        self.token_sum += centred.sum(dim=0)
        self.square_sum += centred.square().sum()
        self.error_sum += (x - rebuilt).double().square().sum()
        self.cosine_sum += functional.cosine_similarity(x - self.centre, rebuilt - self.centre, dim=1).double().sum()
        self.features.add(codes)

    @property
    def tokens(self) -> int:
        return self.features.tokens

    def fit(self) -> Fit:
        """What the tokens so far say; there must be one at least."""
        total = self.square_sum - self.token_sum.square().sum() / self.tokens
        return Fit(
            explained_variance=1 - float(self.error_sum / total.clamp_min(1e-30)),
            l0=float(self.features.density.sum()),
            dead_share=float((self.features.count == 0).float().mean()),
            cosine=float(self.cosine_sum) / self.tokens,
            tokens=self.tokens,
        )
