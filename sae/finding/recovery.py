"""What an SAE is worth to the model itself: is its reconstruction as good as the activation, do its features steer?

Both ask the model for its outputs on the same inputs, rows that differ in their prompt only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder, SparseCodes
from ..dictionary.directions import check_reconstructs
from ..places.moment import Moment, unheard
from ..places.site import Site
from ..places.stream_taps import Observer, Tap

Outputs = Callable[[Sequence[Tap]], Tensor]  # (rows, ...) with the taps installed; the same without any, at every time
FEATURES = 100  # that are tried
MOST_OF = 8  # one row of so many is among those where a feature fires most


class Replaced:
    """A tap that puts something else in the place of what the SAE reads."""

    def __init__(self, site: Site, change: Callable[[Tensor], Tensor]) -> None:
        self._site, self.change = site, change

    @property
    def site(self) -> Site:
        return self._site

    def ready(self, batch: int, moment: Moment, device: torch.device) -> None:
        """Nothing is kept."""

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        seen = (x if activation is None else activation).float()
        return (x.float() + self.change(seen) - seen).to(x.dtype)


def prediction_recovered(outputs: Outputs, sae: SparseAutoencoder, site: Site) -> float:
    """1 where the reconstruction does as well as the activation, 0 where it does as badly as zeros.

    1 - ‖y(x̂) - y(x)‖² / ‖y(0) - y(x)‖², over the model's outputs y.
    """
    check_reconstructs(sae)
    plain = outputs(()).float()
    rebuilt, zeros = (
        (outputs([Replaced(site, change)]).float() - plain).square().sum()
        for change in (sae.reconstruct, torch.zeros_like)
    )
    return 1 - float(rebuilt / zeros.clamp_min(torch.finfo(torch.float32).tiny))


def steerability(
    outputs: Outputs,
    sae: SparseAutoencoder,
    site: Site,
    features: int = FEATURES,
    seed: int = 0,
    on_feature: Callable[[int, int], None] = unheard,
) -> tuple[float, int]:
    """The share of random live features that beat a random direction, and how many were tried; chance is one half.

    A feature's contrast is how the outputs differ with its activation, over the rows: Σ (a - ā)(y - ȳ). The half of the
    rows where it fires least gets it, token by token, as strongly as the rows where it fires most have it; then as much
    of a random direction. It beats that one if it moves the outputs further along the contrast. `on_feature`
    may raise to cancel. For a site of several blocks, the first says what fires.
    """
    codes = _codes(outputs, sae, site)
    plain = outputs(()).float().flatten(1).cpu()
    activity = _means(codes, sae.d_sae)
    random = torch.Generator().manual_seed(seed)
    live = torch.where(activity.std(dim=0) > 0)[0]
    tried = live[torch.randperm(len(live), generator=random)[:features]].tolist()
    better = 0
    for done, feature in enumerate(tried):
        on_feature(done, len(tried))
        own = activity[:, feature]
        contrast = (own - own.mean()) @ (plain - plain.mean(dim=0))
        order = own.argsort()
        low, high = order[: max(1, len(own) // 2)], order[-max(1, len(own) // MOST_OF) :]
        profile = codes.pick(torch.tensor([feature]))[high].mean(dim=0)  # (tokens, 1)
        direction, other = sae.direction([feature])[0], torch.randn(sae.d_in, generator=random)
        moved = [
            ((outputs([Replaced(site, _added(profile * along, low))]).float().flatten(1).cpu() - plain)[low] @ contrast)
            for along in (direction, other / other.norm() * direction.norm())
        ]
        better += bool(moved[0].sum() > moved[1].sum())
    return better / max(1, len(tried)), len(tried)


def _added(delta: Tensor, rows: Tensor) -> Callable[[Tensor], Tensor]:
    """Adds delta (tokens, d_in) to some rows."""

    def change(x: Tensor) -> Tensor:
        pushed = x.clone()
        pushed[rows.to(x.device)] += delta.to(x.device)
        return pushed

    return change


def _codes(outputs: Outputs, sae: SparseAutoencoder, site: Site) -> SparseCodes:
    """What fires on each token: values and indices (rows, tokens, n)."""
    seen: list[SparseCodes] = []

    def see(x: Tensor, moment: Moment) -> None:
        if not seen:
            seen.append(SparseCodes(*(part.cpu() for part in sae.encode_sparse(x, moment.sigma))))

    outputs([Observer(site, see)])
    return seen[0]


def _means(codes: SparseCodes, d_sae: int) -> Tensor:
    """(rows, d_sae): each row's mean activations over its tokens."""
    rows, tokens = codes.values.shape[:2]
    sums = torch.zeros(rows, d_sae)
    return sums.scatter_add_(1, codes.indices.flatten(1), codes.values.flatten(1)) / tokens
