"""What a steering is made of and what is known of its features: all that a method computes with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..dictionary.directions import Coded, Directions
from ..dictionary.statistics import FeatureStatistics
from ..files.small_json import is_number
from .edits import Edit, FeatureList, Method, Unit, measured_values

NORMED: tuple[Unit, ...] = ("token_norm", "calibrated", "auto")  # fractions of each token's norm, where a method pushes


@dataclass(frozen=True)
class Gate:
    """The tokens at which a steering acts: those where one of these features fires; without any, every token.

        Δ' = Δ at tokens where f_j > t · m_j for any feature j of the gate, else 0

    with t = `above` and m_j the feature's mean where it fires, so that 0 is wherever one fires at all. Any method may
    have one: `boost_if_active` is `add` with its own features as the gate. To detect with an SAE and change the tokens
    found alone keeps the others as they are (arXiv 2606.31699).
    """

    edits: Sequence[Edit] = ()
    above: float = 0.0

    def __post_init__(self) -> None:
        if not is_number(self.above) or self.above < 0:
            raise ValueError(f"active_above: {self.above} came; give 0 or more times the feature's own mean.")

    def __bool__(self) -> bool:
        return bool(self.edits)

    @property
    def features(self) -> list[int]:
        return [edit.feature for edit in self.edits]

    def open_at(self, codes: Tensor, means: Tensor) -> Tensor:
        """(...,) 1 or 0 for codes (..., n) and each feature's mean where it fires (n,)."""
        return (codes > self.above * means).any(-1).float()


EVERY_TOKEN = Gate()


@dataclass(frozen=True)
class SteeringInputs:
    """Edits of one dictionary, the method's name, and how much: `strength` multiplies every edit's own.

    `unit` holds for the edits that do not bring their own. `replaces` is what some methods take out; a `gate` leaves
    tokens alone at which its features do not fire.
    """

    sae: Directions
    edits: Sequence[Edit]
    method: Method
    strength: float = 1.0
    unit: Unit = "token_norm"
    replaces: Sequence[Edit] = ()
    gate: Gate = EVERY_TOKEN

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
        lists = [edits for edits in self._every_list if isinstance(edits, FeatureList)]
        return [warning for edits in lists for warning in edits.warnings]

    @property
    def _every_list(self) -> tuple[Sequence[Edit], ...]:
        return self.edits, self.replaces, self.gate.edits

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

    def over_all_tokens(self, edits: Sequence[Edit]) -> Tensor:
        """(n,): each feature's mean over all tokens; ValueError where nobody measured it."""
        return self.measured(edits, "mean") * self.measured(edits, "density")

    def level_of_replaces(self) -> Tensor:
        """(): Σ_j w_j m_j, what the features to take out come to over all tokens; ValueError where that is nothing."""
        level = (self.weights * self.over_all_tokens(self.replaces)).sum()
        if not level > 0:
            raise ValueError(
                f"replaces: feature {self.replaced[0]} never fires by its statistics, nor does any other of the list; "
                "take out features that fire."
            )
        return level

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
