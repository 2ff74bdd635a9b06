"""The delta engine: `x' = x + Δ`, with Δ in float32 for every method and unit.

`Steering` checks what it is told, and prepares and computes what its method's file (`methods/`) says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..dictionary.directions import Coded, Directions, check_width
from ..dictionary.sae_set import SaeSet
from ..dictionary.weights import PartName
from .edits import UNITS, Edit, Method, Unit, check_features, check_owner, measured_values
from .fast.one_row import Push, prepared_row, token_norms
from .methods import DEFAULT, METHODS, is_method
from .methods.shift import common_length, unit_rows
from .methods.steering_method import Change, Prepared, SteeringMethod
from .steering_inputs import NORMED, Gate, SteeringInputs
from .summary import PresenceOf

PUSH = 0.2  # of the token's norm: what 1 `auto` is where nothing was calibrated; above 0.5 the activation is destroyed


@dataclass(frozen=True)
class Steering(SteeringInputs):
    """Edits of one dictionary with one method. `strength` multiplies every edit's own; see `delta` for the units.

    A method that reads no activations takes any `Directions`, the others need an SAE.
    `unit` holds for the edits that do not bring their own.
    """

    method: Method = DEFAULT
    _cache: dict[torch.device, Prepared] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not is_method(self.method):
            raise ValueError(f"method: {self.method!r} is not a method; use one of {', '.join(METHODS)}.")
        if self.unit not in UNITS:
            raise ValueError(f"unit: {self.unit!r} is not a unit; use one of {', '.join(UNITS)}.")
        if not math.isfinite(self.strength):
            raise ValueError(f"strength: {self.strength} is not a finite number.")
        check_lists(self.sae, self.edits, self.replaces, self.method, self.gate)
        self._check_dictionary()
        self._check_duplicates()
        self._check_numbers()

    def _check_dictionary(self) -> None:
        if self.gate and not isinstance(self.sae, Coded):
            raise ValueError(
                f"where_active: features must fire for that, but {self.sae.name} has directions only; leave it out."
            )
        if self.traits.reads_codes and not isinstance(self.sae, Coded):
            others = " or ".join(name for name, traits in METHODS.items() if not traits.reads_codes)
            raise ValueError(
                f"method: {self.method!r} reads how strongly features fire, but {self.sae.name} has directions only; "
                f"use {others}."
            )

    def _check_duplicates(self) -> None:
        if self.traits.each_once and len(set(self.features)) < len(self.edits):
            twice = next(k for k in self.features if self.features.count(k) > 1)
            raise ValueError(
                f"features: feature {twice} is named twice, which {self.method!r} cannot follow; name it once."
            )

    def _check_numbers(self) -> None:
        """A missing statistic is told before anything runs."""
        self._sizes()
        for edits in (self.edits, self.replaces):
            for name in self.traits.needs:
                self.measured(edits, name, f"method: {self.method!r}")
        if self.gate.above:
            self.measured(self.gate.edits, "mean", "active_above: a multiple of the mean")
        self.traits.check(self)

    @property
    def traits(self) -> SteeringMethod:
        """What is to be known of the method."""
        return METHODS[self.method]

    @property
    def reads(self) -> frozenset[PartName]:
        """The parts of the SAE that this method computes with; none where a few decoder rows are enough."""
        return self.traits.reads | {"encoder"} if self.gate else self.traits.reads

    @property
    def changes_nothing(self) -> bool:
        """True where Δ is zero by definition, so that the input is returned bit for bit."""
        return self.traits.idle(self)

    @property
    def presence_of(self) -> PresenceOf | None:
        """The input whose features it acts on only where they fire; of the gate's where the method acts everywhere."""
        return self.traits.acts_on or ("where_active" if self.gate else None)

    def delta(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """Δ (..., d_in) float32 for activations x (..., d_in); see `change`."""
        return self.change(x, sigma).delta

    def change(self, x: Tensor, sigma: float | None = None) -> Change:
        """Δ for activations x (..., d_in), and how strongly what it acts on is there.

        Units of the strength s: `raw`, the feature's activation · `token_norm`, ‖Δ‖ as a fraction of each token's norm
        · `mean` and `max`, multiples of the feature's own mean (where it fires) or largest activation · `calibrated`,
        multiples of what CalibrateStrength found to be clearly there with this method · `auto`, that where it is known
        and else PUSH of each token's norm, together no longer than the largest alone. A method that does not know a
        unit (`SteeringMethod.units`) reads `raw` instead.
        Raises ValueError for another width than the SAE's.
        """
        check_width(self.sae, x)
        prepared, x = self.on(x.device), x.float()
        change = self.traits.change(self, prepared, x, sigma)
        if not self.gate:
            return change
        codes = self.coded.codes(x, self.gate.features, sigma)
        delta = change.delta * self.gate.open_at(codes, prepared.gate).unsqueeze(-1)
        return Change(delta, codes.sum(-1) / prepared.natural if change.presence is None else change.presence)

    def push(self, x: Tensor, onto: Tensor | None = None) -> Push | None:
        """Δ for activations x (rows, tokens, d_in), where it is one row at every token, without a gate; else None.

        `onto` is what it will be added to, where that is not x. Raises ValueError for another width than the SAE's.
        """
        check_width(self.sae, x)
        row = self.on(x.device).row
        if row is None:
            return None
        amounts = None
        if self.of_norm == {False}:
            amounts = self.sae.token_scale(x)
        elif onto is not None:
            amounts = token_norms(x).unsqueeze(-1)
        return Push(amounts, *row)

    def on(self, device: torch.device) -> Prepared:
        """Directions and strengths on a device, kept for the next call. Safe across threads."""
        if device not in self._cache:
            self._cache.setdefault(device, self._prepare(device))
        return self._cache[device]

    def ready(self, device: torch.device, sigma: float | None = None) -> None:
        """Computes Δ of one token: what is read on first use is then there for calls that may keep nothing."""
        self.delta(torch.zeros(1, self.sae.d_in, device=device), sigma)

    def _prepare(self, device: torch.device) -> Prepared:
        sizes, directions = self._sizes(), self.sae.direction(self.features)
        strengths = torch.tensor(self.strengths, dtype=torch.float32) * sizes
        if self.traits.pushes:
            strengths = strengths * common_length(directions, strengths, [unit == "auto" for unit in self.units])
        normed = torch.tensor([unit in NORMED for unit in self.units], dtype=torch.float32)
        own = {name: tensor.to(device) for name, tensor in self.traits.prepare(self, sizes).items()}
        row = None
        if self.traits.one_row and len(self.of_norm) == 1 and not self.gate:
            directed = strengths @ torch.where(normed.bool().unsqueeze(-1), unit_rows(directions), directions)
            row = prepared_row(directed, device)
        gate = self.measured(self.gate.edits, "mean") if self.gate.above else torch.zeros(len(self.gate.edits))
        directions, strengths, normed, natural, gate = (
            tensor.to(device) for tensor in (directions, strengths, normed, self._natural(), gate)
        )
        return Prepared(directions, strengths, normed, natural, own, row, gate)

    def _natural(self) -> Tensor:
        """`natural` of Prepared."""
        lists = {"replaces": self.replaces, "where_active": self.gate.edits}
        read = self.edits if self.presence_of is None else lists.get(self.presence_of, self.edits)
        known = [measured_values(read, name, self.statistics) for name in ("mean", "density")]
        if self.presence_of is None or any(None in values for values in known):
            return torch.tensor(torch.nan)
        mean, density = torch.tensor(known, dtype=torch.float32)
        return ((self.weights if self.presence_of == "replaces" else 1.0) * mean * density).sum()

    def _sizes(self) -> Tensor:
        """(n,): what one unit of each edit's strength is; ValueError where that needs what nobody measured."""
        return torch.tensor([self._size(edit, unit) for edit, unit in zip(self.edits, self.units, strict=True)])

    def _size(self, edit: Edit, unit: Unit) -> float:
        """What one unit of the edit's strength is: an activation, or a fraction of the token's norm."""
        if unit not in self.traits.units:
            return 1.0
        if unit == "calibrated":
            if edit.calibration is None or edit.calibration.method != self.method:
                known = "it has none" if edit.calibration is None else f"its own is for {edit.calibration.method!r}"
                raise ValueError(
                    f"unit: 'calibrated' needs a calibration of feature {edit.feature} for {self.method!r}, but "
                    f"{known}; run CalibrateStrength with this method, or use another unit."
                )
            return edit.calibration.clear
        if unit == "auto":
            measured = edit.calibration
            return measured.clear if measured is not None and measured.method == self.method else PUSH
        return float(self.measured([edit], unit)) if unit in ("mean", "max") else 1.0


def check_lists(
    whose: Directions | SaeSet, edits: Sequence[Edit], replaces: Sequence[Edit], method: Method, gate: Gate
) -> None:
    """Raises ValueError where there is nothing to steer with, or a list is not this dictionary's or method's."""
    if not edits:
        raise ValueError(
            "features: the list is empty, so there is nothing to steer with; connect SAEFeature or "
            "TopActivatingFeatures with at least one feature."
        )
    check_owner(edits, whose.owner, "features")
    check_owner(replaces, whose.owner, "replaces")
    check_owner(gate.edits, whose.owner, "where_active")
    check_features((*edits, *replaces, *gate.edits), whose.count, whose.name)
    traits = METHODS[method]
    if traits.needs_replaces and not replaces:
        raise ValueError(
            f"replaces: {method!r} needs the features to take out, but none came; connect their list here."
        )
    replaced = [edit.feature for edit in replaces]
    twice = [k for k in replaced if replaced.count(k) > 1]
    if twice:
        raise ValueError(f"replaces: feature {twice[0]} is named twice, but can be taken out only once; name it once.")
    if replaces and not traits.needs_replaces:
        replacing = [name for name, traits in METHODS.items() if traits.needs_replaces]
        raise ValueError(
            f"replaces: {method!r} takes no features out; use {' or '.join(replacing)}, or disconnect them."
        )
