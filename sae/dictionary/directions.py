"""What steering needs of a dictionary: directions; for the methods that read activations, codes as well.

An SAE has both. A set of contrast vectors has directions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..places.site import Site
from .owner import Owner
from .statistics import FeatureStatistics


class Directions(Protocol):
    """All that the methods need that read no activations."""

    @property
    def name(self) -> str: ...

    @property
    def owner(self) -> Owner: ...

    @property
    def d_in(self) -> int:
        """Width of the activations."""

    @property
    def count(self) -> int:
        """How many directions there are."""

    def direction(self, ids: Sequence[int]) -> Tensor:
        """(len(ids), d_in) float32 on the CPU; ValueError for an id that does not exist."""

    def token_scale(self, x: Tensor) -> Tensor:
        """(..., 1) for x (..., d_in): what a direction is multiplied by at each token."""


@runtime_checkable
class Coded(Directions, Protocol):
    """Directions with an encoder, for the methods that read how strongly a feature fires."""

    @property
    def statistics(self) -> FeatureStatistics | None: ...

    def codes(self, x: Tensor, ids: Sequence[int], sigma: float | None = None) -> Tensor:
        """(..., len(ids)) for x (..., d_in): activations of the features `ids`."""

    def reconstruct(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """x̂ (..., d_in) of x (..., d_in)."""


def check_width(dictionary: Directions, x: Tensor) -> None:
    """Raises ValueError where activations x (..., d) have another width than the dictionary's."""
    if x.shape[-1] != dictionary.d_in:
        raise ValueError(
            f"sae: {dictionary.name} was trained on activations of width {dictionary.d_in}, but this location has "
            f"width {x.shape[-1]}; use an SAE trained on this model."
        )


def check_place(dictionary: Directions, site: Site) -> None:
    """Raises ValueError for a transcoder elsewhere than around an MLP, and for anything else there."""
    own = bool(getattr(dictionary, "transcoder", False))
    if own and site.point != "transcoder":
        raise ValueError(
            f"location: {dictionary.name} is a transcoder, which reads what goes into an MLP and writes onto what "
            f"comes out, but {site} is another point; write one such as transformer_blocks.6.ff.transcoder, or auto."
        )
    if site.point == "transcoder" and not own:
        raise ValueError(
            f"location: {site} is the place of a transcoder, which reads another tensor than it writes, but "
            f"{dictionary.name} reads what it writes; leave .transcoder out."
        )


def check_reconstructs(dictionary: Directions) -> None:
    """Raises ValueError for a transcoder, whose x̂ cannot be held against its own input."""
    if getattr(dictionary, "transcoder", False):
        raise ValueError(
            f"sae: {dictionary.name} is a transcoder, which predicts an MLP's output from its input, so how well it "
            f"reconstructs its input cannot be measured; find, label and steer with it."
        )
