"""What a steering is made of and what is known of its features: all that a method computes with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..dictionary.directions import Coded, Directions
from ..dictionary.statistics import FeatureStatistics
from .edits import Edit, FeatureList, Method, Unit, measured_values

NORMED: tuple[Unit, ...] = ("token_norm", "calibrated", "auto")  # fractions of each token's norm, where a method pushes


@dataclass(frozen=True)
class SteeringInputs:
    """Edits of one dictionary, the method's name, and how much: `strength` multiplies every edit's own.

    `unit` holds for the edits that do not bring their own. `replaces` is what some methods take out.
    """

    sae: Directions
    edits: Sequence[Edit]
    method: Method
    strength: float = 1.0
    unit: Unit = "token_norm"
    replaces: Sequence[Edit] = ()

    @property
    def coded(self) -> Coded:
        """The dictionary, for the methods that read activations."""
        if not isinstance(self.sae, Coded):
            raise TypeError(f"{self.sae.name} has no activations")  # whoever made a steering of it has been refused
        return self.sae

    @property
    def statistics(self) -> FeatureStatistics | None:
        """Those of the dictionary, where it has any."""
        return self.sae.statistics if isinstance(self.sae, Coded) else None

    @property
    def warnings(self) -> list[str]:
        """What is to be told of the lists that it steers with."""
        lists = [edits for edits in (self.edits, self.replaces) if isinstance(edits, FeatureList)]
        return [warning for edits in lists for warning in edits.warnings]

    @property
    def features(self) -> list[int]:
        return [edit.feature for edit in self.edits]

    @property
    def replaced(self) -> list[int]:
        return [edit.feature for edit in self.replaces]

    @property
    def strengths(self) -> list[float]:
        return [self.strength * edit.strength for edit in self.edits]

    @property
    def weights(self) -> Tensor:
        """(r,): the strengths of the replaced edits."""
        return torch.tensor([edit.strength for edit in self.replaces], dtype=torch.float32)

    @property
    def units(self) -> list[Unit]:
        """What each edit's strength is given in."""
        return [edit.unit or self.unit for edit in self.edits]

    @property
    def of_norm(self) -> frozenset[bool]:
        """Whether strengths are fractions of each token's norm; both where some are and some are not."""
        return frozenset(unit in NORMED for unit in self.units)

    def measured(self, edits: Sequence[Edit], name: str, asking: str = "") -> Tensor:
        """One statistic of each edit's feature, (n,).

        ValueError where nobody measured it; `asking` is what needs it, else the unit of that name.
        """
        values = measured_values(edits, name, self.statistics)
        if None in values:
            raise ValueError(
                f"{asking or f'unit: {name!r}'} needs the activation of feature {edits[values.index(None)].feature}, "
                f"and {self.sae.name} has no statistics of it; take the features from TopActivatingFeatures, or use "
                "another method or unit."
            )
        return torch.tensor(values, dtype=torch.float32)
