"""Does an SAE belong to a model and a site? What it makes of live activations there, and at sites nearby, tells.

Neighbouring blocks share the residual stream, so an SAE explains much of the wrong one as well: 63 % where the right
one has 99.7 % (Shapes, text stream). Only the comparison tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..places.moment import Moment
from ..places.site import KINDS, Depth, Point, Site
from .fit import Fit, FitTally

FITTING_VARIANCE = 0.5  # an SAE that explains less than this share is of no use there
BETTER_BY = 0.05  # explained variance by which another site must win to be named as the right one
RIVAL_TOKENS = 32  # of each call are looked at elsewhere
_POINTS: tuple[Point, ...] = ("block", "update", "attn", "mlp")


class SelfTest:
    """Measures an SAE at one site, call by call: the `see` of an Observer."""

    def __init__(self, sae: SparseAutoencoder, limit: int | None = None) -> None:
        """`limit` is the number of tokens of a call that count, evenly spread; all when None."""
        self.sae = sae
        self.limit = limit
        self.broken = 0  # tokens with NaN or infinite entries, which are left out
        self._tally: FitTally | None = None  # made where the first activations lie

    def __call__(self, x: Tensor, moment: Moment) -> None:
        self.add(x, moment.sigma)

    @torch.no_grad()
    def add(self, x: Tensor, sigma: float) -> None:
        """Activations x (..., d_in) at one noise level."""
        tokens = x.reshape(-1, x.shape[-1])
        if self.limit is not None:
            tokens = tokens[:: -(-len(tokens) // self.limit)]
        tokens = tokens.float()
        sound = tokens.isfinite().all(dim=1)
        self.broken += int((~sound).sum())
        tokens = tokens[sound]
        if not len(tokens):
            return
        if self._tally is None:
            self._tally = FitTally(self._centre(tokens), self.sae.d_sae)
        codes = self.sae.encode_sparse(tokens, sigma)
        self._tally.add(tokens, codes, self.sae.decode_sparse(codes, like=tokens))

    def _centre(self, tokens: Tensor) -> Tensor:
        """Where cosines are taken from: the output bias, which is no fixed point of an SAE that normalises tokens."""
        bias = self.sae.weights.optional_vector("output_bias")
        if bias is None or self.sae.architecture.normalization != "none":
            return tokens.new_zeros(tokens.shape[-1])
        return bias.to(tokens.device)

    @property
    def fit(self) -> Fit | None:
        """What was measured; None before the first sound token."""
        return None if self._tally is None else self._tally.fit()


def rival_sites(site: Site, depth: Depth) -> list[Site]:
    """Where an SAE of another place may belong: the same point in every other block, other points, the other stream."""
    if len(site.blocks) != 1:
        return []
    places = [replace(site, blocks=(number,)) for number in range(depth.of(site.kind))]
    if site.stream != "joint" and site.point != "mlp":  # what all kinds of blocks have
        others = [kind for kind in KINDS if kind != site.kind]
        places += [replace(site, kind=kind, blocks=(number,)) for kind in others for number in range(depth.of(kind))]
    points = [point for point in _POINTS if not (site.kind == "single" and point == "mlp")]
    places += [replace(site, point=point) for point in points]
    if site.kind == "double":
        places.append(replace(site, stream="text" if site.stream == "image" else "image"))
    return [place for place in places if place != site]


@dataclass(frozen=True)
class Verdict:
    """Whether an SAE fits, and one sentence that says why."""

    fits: bool
    sentence: str


def judge(sae: SparseAutoencoder, site: Site, fit: Fit | None, rivals: Mapping[Site, Fit | None]) -> Verdict:
    """Weighs what was measured at the site against what was measured elsewhere."""
    wrong = f"This SAE does not fit this model at {site}: "
    if fit is None:
        return Verdict(False, wrong + "the model's activations there are not finite.")
    here = f"{fit.explained_variance:.1%} of the variance"
    if fit.l0 == 0:
        return Verdict(False, wrong + "none of its features fires.")
    seen = {place: found for place, found in rivals.items() if found is not None and found.l0}
    best = max(seen, key=lambda place: seen[place].explained_variance, default=None)
    if best is not None and seen[best].explained_variance > max(fit.explained_variance + BETTER_BY, FITTING_VARIANCE):
        there = f"{seen[best].explained_variance:.1%} at {best}"
        return Verdict(False, wrong + f"it explains {here} there, but {there}; use that location.")
    if not fit.explained_variance >= FITTING_VARIANCE:
        return Verdict(False, wrong + f"it explains {here}, and half of it is the least that is of use.")
    features = f"{fit.l0:.1f} of {sae.d_sae} features active per token"
    return Verdict(True, f"This SAE fits this model at {site}: it explains {here} with {features}.")
