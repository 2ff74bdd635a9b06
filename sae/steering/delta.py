"""The delta engine: `x' = x + Δ`, with Δ in float32 for every method and unit.

With codes f, effective directions D and a reconstruction x̂ of an SAE:

    add              Δ = s · d_k
    set              Δ = (s - f_k) · d_k
    scale            Δ = (s - 1) · f_k · d_k
    boost_if_active  Δ = s · d_k on the tokens where f_k > 0
    project_out      Δ = -s · (x·d̂) d̂
    surgery          Δ = decode(f with f_k + s) - x
    swap             Δ = s · (g · Σ_k w_k m_k d_k - Σ_j w_j f_j d_j),  g = Σ_j w_j f_j / Σ_j w_j m_j

`swap` takes the features j out where they fire and puts the features k there, as strongly as j fire: g is their level
at a token against their mean m over all tokens. w are the edits' own strengths. With features and strengths from two
contrasts, s = 1 moves the mean over all tokens by the natural difference of two prompts.
Surgery throws away what the SAE cannot express; adding its reconstruction error back gives `add` exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..dictionary.directions import Coded, Directions, check_width
from ..dictionary.statistics import FeatureStatistics
from ..dictionary.weights import PartName
from .edits import METHODS, PUSHING, UNITS, Edit, FeatureList, Method, Unit, check_lists, measured_values
from .fast.one_row import SAFE, Push, kernels_work, token_norms
from .share import share, unit_rows
from .summary import PresenceOf

DIRECTED: tuple[Method, ...] = ("add", "project_out")  # need directions and no activations
ACTS_ON: dict[Method, PresenceOf] = {"swap": "replaces", "scale": "features", "boost_if_active": "features"}
NORMED: tuple[Unit, ...] = ("token_norm", "calibrated", "auto")  # fractions of each token's norm, where a method pushes
PUSH = 0.2  # of the token's norm: what 1 `auto` is where nothing was calibrated; above 0.5 the activation is destroyed


class Prepared(NamedTuple):
    """A steering on one device, float32: n edits, r replaced ones."""

    directions: Tensor  # (n, d_in)
    strengths: Tensor  # (n,), in activation units where the unit is a multiple of a statistic
    replaced: Tensor  # (r, d_in)
    insert: Tensor  # (n,): s · m_k over Σ w_j m_j, empty unless swapping
    weights: Tensor  # (r,): w_j, the strengths of the replaced edits
    normed: Tensor  # (n,): 1 where the strength is a fraction of the token's norm, else 0
    removal: Tensor  # (), how many times over swap takes the replaced features out
    natural: Tensor  # (), mean over all tokens of what the method reads, Σ w_j m_j; nan where nobody measured it
    row: Tensor  # (d_in,): the directions times their strengths, of unit length where those are fractions of the norm
    row_norm: Tensor  # (): ‖row‖
    safe: bool  # whether the row is short enough for `Push.safe`
    kernels: bool  # whether those of `kernels.py` work there


class Change(NamedTuple):
    """Δ (..., d_in), float32; and (...,) how strongly what the method acts on fires, as a multiple of its own mean.

    That is nan where nobody measured the mean, and None where the method acts on every token.
    """

    delta: Tensor
    presence: Tensor | None = None


@dataclass(frozen=True)
class Steering:
    """Edits of one dictionary with one method. `strength` multiplies every edit's own; see `delta` for the units.

    `add` and `project_out` take any `Directions`, the other methods need an SAE.
    `unit` holds for the edits that do not bring their own.
    """

    sae: Directions
    edits: Sequence[Edit]
    method: Method = "add"
    strength: float = 1.0
    unit: Unit = "token_norm"
    replaces: Sequence[Edit] = ()  # what `swap` takes out
    _cache: dict[torch.device, Prepared] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method: {self.method!r} is not a method; use one of {', '.join(METHODS)}.")
        if self.unit not in UNITS:
            raise ValueError(f"unit: {self.unit!r} is not a unit; use one of {', '.join(UNITS)}.")
        if not math.isfinite(self.strength):
            raise ValueError(f"strength: {self.strength} is not a finite number.")
        check_lists(self.sae, self.edits, self.replaces, self.method)
        self._check_dictionary()
        self._check_duplicates()
        self._scaled_strengths()  # a missing statistic is told before anything runs

    def _check_dictionary(self) -> None:
        if self.method not in DIRECTED and not isinstance(self.sae, Coded):
            raise ValueError(
                f"method: {self.method!r} reads how strongly features fire, but {self.sae.name} has directions only; "
                f"use {' or '.join(DIRECTED)}."
            )

    def _check_duplicates(self) -> None:
        if self.method in ("set", "scale") and len(set(self.features)) < len(self.edits):
            twice = next(k for k in self.features if self.features.count(k) > 1)
            raise ValueError(
                f"features: feature {twice} is named twice, which {self.method!r} cannot follow; name it once."
            )

    @property
    def coded(self) -> Coded:
        """The dictionary, for the methods that read activations."""
        if not isinstance(self.sae, Coded):
            raise TypeError(f"{self.sae.name} has no activations")  # __post_init__ has refused it
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
    def reads(self) -> frozenset[PartName]:
        """The parts of the SAE that this method computes with; `add` and `project_out` need a few decoder rows only."""
        if self.method in DIRECTED:
            return frozenset()
        return frozenset(("encoder", "decoder") if self.method == "surgery" else ("encoder",))

    @property
    def changes_nothing(self) -> bool:
        """True where Δ is zero by definition, so that the input is returned bit for bit."""
        if self.method == "scale":
            return all(strength == 1 for strength in self.strengths)
        if self.method == "swap":
            return self.strength == 0
        return self.method in ("add", "boost_if_active", "project_out") and not any(self.strengths)

    @property
    def units(self) -> list[Unit]:
        """What each edit's strength is given in."""
        return [edit.unit or self.unit for edit in self.edits]

    def delta(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """Δ (..., d_in) float32 for activations x (..., d_in); see `change`."""
        return self.change(x, sigma).delta

    def change(self, x: Tensor, sigma: float | None = None) -> Change:
        """Δ for activations x (..., d_in), and how strongly what it acts on is there.

        Units of the strength s: `raw`, the feature's activation · `token_norm`, ‖Δ‖ as a fraction of each token's norm
        · `mean` and `max`, multiples of the feature's own mean (where it fires) or largest activation · `calibrated`,
        multiples of what CalibrateStrength found to be clearly there with this method · `auto`, that where it is known
        and else PUSH of each token's norm, together no longer than the largest alone. `set` takes an activation in
        `raw`, `mean` or `max`, and reads `token_norm` and `auto` as `raw`; of the others only `swap` has a unit,
        `calibrated`.
        Raises ValueError for another width than the SAE's.
        """
        check_width(self.sae, x)
        return _CHANGES[self.method](self, x.float(), sigma)

    def push(self, x: Tensor, onto: Tensor | None = None) -> Push | None:
        """Δ of `add` for activations x (rows, tokens, d_in), where it is one row at every token; else None.

        `onto` is what it will be added to, where that is not x. Raises ValueError for another width than the SAE's.
        """
        check_width(self.sae, x)
        of_norm = {unit in NORMED for unit in self.units}
        if self.method != "add" or len(of_norm) != 1:
            return None
        at, amounts = self.on(x.device), None
        if of_norm == {False}:
            amounts = self.sae.token_scale(x)
        elif onto is not None:
            amounts = token_norms(x).unsqueeze(-1)
        return Push(amounts, at.row, at.row_norm, at.safe, at.kernels)

    def on(self, device: torch.device) -> Prepared:
        """Directions and strengths on a device, kept for the next call. Safe across threads."""
        if device not in self._cache:
            self._cache.setdefault(device, self._prepare(device))
        return self._cache[device]

    def ready(self, device: torch.device, sigma: float | None = None) -> None:
        """Computes Δ of one token: what is read on first use is then there for calls that may keep nothing."""
        self.delta(torch.zeros(1, self.sae.d_in, device=device), sigma)

    def _prepare(self, device: torch.device) -> Prepared:
        strengths, insert, removal = self._scaled_strengths()
        replaced = self.sae.direction(self.replaced) if self.replaces else torch.empty(0, self.sae.d_in)
        normed = torch.tensor([unit in NORMED for unit in self.units], dtype=torch.float32)
        directions, rest = self.sae.direction(self.features), (self._weights, normed, removal, self._natural())
        if self.method in PUSHING:
            strengths = strengths * share(directions, strengths, [unit == "auto" for unit in self.units])
        row = strengths @ torch.where(normed.bool().unsqueeze(-1), unit_rows(directions), directions)
        tensors = (directions, strengths, replaced, insert, *rest, row, row.norm())
        works = self.method == "add" and kernels_work(device)
        return Prepared._make((*(tensor.to(device) for tensor in tensors), bool(row.abs().max() <= SAFE), works))

    @property
    def presence_of(self) -> PresenceOf | None:
        """The input whose features the method acts on only where they fire."""
        return ACTS_ON.get(self.method)

    def _natural(self) -> Tensor:
        """`natural` of Prepared."""
        read = self.replaces if self.presence_of == "replaces" else self.edits
        known = [measured_values(read, name, self.statistics) for name in ("mean", "density")]
        if self.presence_of is None or any(None in values for values in known):
            return torch.tensor(torch.nan)
        mean, density = torch.tensor(known, dtype=torch.float32)
        return ((self._weights if self.replaces else 1.0) * mean * density).sum()

    @property
    def _weights(self) -> Tensor:
        return torch.tensor([edit.strength for edit in self.replaces], dtype=torch.float32)

    def _scaled_strengths(self) -> tuple[Tensor, Tensor, Tensor]:
        """`strengths`, `insert` and `removal` of Prepared; ValueError where they need what nobody measured."""
        strengths = torch.tensor(self.strengths, dtype=torch.float32)
        if self.method in ("scale", "project_out"):
            return strengths, torch.empty(0), torch.empty(0)
        scales = torch.tensor([self._scale_of(edit, unit) for edit, unit in zip(self.edits, self.units, strict=True)])
        if self.method != "swap":
            return strengths * scales, torch.empty(0), torch.empty(0)
        natural = _statistics(self, self.edits, "mean") * _statistics(self, self.edits, "density")
        means = _statistics(self, self.replaces, "mean") * _statistics(self, self.replaces, "density")
        level = (self._weights * means).sum()
        if not level > 0:
            raise ValueError(
                f"replaces: feature {self.replaced[0]} never fires by its statistics, nor does any other of the list; "
                "take out features that fire."
            )
        own = torch.tensor([abs(edit.strength) for edit in self.edits])
        common = (own * scales).sum() / own.sum() if own.any() else torch.ones(())  # of one feature its own scale
        return strengths, strengths * scales * natural / level, self.strength * common

    def _scale_of(self, edit: Edit, unit: Unit) -> float:
        """What one unit of the edit's strength is: an activation, or a fraction of the token's norm."""
        if unit == "calibrated":
            if edit.calibration is None or edit.calibration.method != self.method:
                known = "it has none" if edit.calibration is None else f"its own is for {edit.calibration.method!r}"
                raise ValueError(
                    f"unit: 'calibrated' needs a calibration of feature {edit.feature} for {self.method!r}, but "
                    f"{known}; run CalibrateStrength with this method, or use another unit."
                )
            return edit.calibration.clear
        if unit == "auto" and self.method in PUSHING:
            measured = edit.calibration
            return measured.clear if measured is not None and measured.method == self.method else PUSH
        if unit in ("mean", "max") and self.method != "swap":
            return float(_statistics(self, [edit], unit))
        return 1.0


def _statistics(steering: Steering, edits: Sequence[Edit], name: str) -> Tensor:
    """One statistic of each edit's feature, (n,); ValueError where nobody measured it."""
    values = measured_values(edits, name, steering.statistics)
    if None in values:
        what = f"method: {steering.method!r}" if steering.method == "swap" else f"unit: {name!r}"
        raise ValueError(
            f"{what} needs the activation of feature {edits[values.index(None)].feature}, and {steering.sae.name} has "
            "no statistics of it; take the features from TopActivatingFeatures, or use another method or unit."
        )
    return torch.tensor(values, dtype=torch.float32)


def _along(steering: Steering, x: Tensor, amounts: Tensor) -> Tensor:
    """Amounts (..., n) of codes as a shift of the activations (..., d_in)."""
    return (amounts @ steering.on(x.device).directions) * steering.sae.token_scale(x)


def _push(steering: Steering, x: Tensor, where: Tensor) -> Tensor:
    """The strengths along their directions, at the tokens and edits `where` is 1 (..., n)."""
    at = steering.on(x.device)
    amounts = at.strengths * where
    of_norm = {unit in NORMED for unit in steering.units}
    if of_norm == {False}:
        return _along(steering, x, amounts)
    # not by way of codes: an SAE's normalisation has no finite inverse at a token whose entries are all equal
    pushed = (amounts * at.normed * x.norm(dim=-1, keepdim=True)) @ unit_rows(at.directions)
    return pushed if of_norm == {True} else pushed + _along(steering, x, amounts * (1 - at.normed))


def _add(steering: Steering, x: Tensor, sigma: float | None) -> Change:
    return Change(_push(steering, x, x.new_ones(*x.shape[:-1], len(steering.edits))))


def _set(steering: Steering, x: Tensor, sigma: float | None) -> Change:
    codes = steering.coded.codes(x, steering.features, sigma)
    return Change(_along(steering, x, steering.on(x.device).strengths - codes))


def _scale(steering: Steering, x: Tensor, sigma: float | None) -> Change:
    codes = steering.coded.codes(x, steering.features, sigma)
    at = steering.on(x.device)
    return Change(_along(steering, x, (at.strengths - 1) * codes), codes.sum(-1) / at.natural)


def _boost_if_active(steering: Steering, x: Tensor, sigma: float | None) -> Change:
    codes = steering.coded.codes(x, steering.features, sigma)
    return Change(_push(steering, x, (codes > 0).float()), codes.sum(-1) / steering.on(x.device).natural)


def _project_out(steering: Steering, x: Tensor, sigma: float | None) -> Change:
    directions, strengths, *_ = steering.on(x.device)
    rows = unit_rows(directions)
    return Change(-(strengths * (x @ rows.T)) @ rows)


def _surgery(steering: Steering, x: Tensor, sigma: float | None) -> Change:
    # decode is affine, so decode(f + a) = decode(f) + a·D: the codes never need to be dense
    return Change(steering.coded.reconstruct(x, sigma) - x + _add(steering, x, sigma).delta)


def _swap(steering: Steering, x: Tensor, sigma: float | None) -> Change:
    at = steering.on(x.device)
    found = at.weights * steering.coded.codes(x, steering.replaced, sigma)
    shift = (found.sum(-1, keepdim=True) * at.insert) @ at.directions - at.removal * found @ at.replaced
    return Change(shift * steering.sae.token_scale(x), found.sum(-1) / at.natural)


_CHANGES: dict[Method, Callable[[Steering, Tensor, float | None], Change]] = {
    "add": _add,
    "set": _set,
    "scale": _scale,
    "boost_if_active": _boost_if_active,
    "project_out": _project_out,
    "surgery": _surgery,
    "swap": _swap,
}
