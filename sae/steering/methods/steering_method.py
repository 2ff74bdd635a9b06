"""What a method of steering is: how it computes Δ, and what others ask of it.

Each method has a file of its own beside this one, with its `METHOD`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from ...dictionary.weights import PartName
from ..edits import Unit
from ..fast.one_row import PreparedRow
from ..steering_inputs import SteeringInputs
from ..summary import PresenceOf


def each_the_total(total: float, places: int) -> float:
    """Each place fixes what it finds, whatever was done before."""
    return total


def equal_parts(total: float, places: int) -> float:
    """Pushes add up."""
    return total / places


def part_of_the_rest(total: float, places: int) -> float:
    """Each place takes a part out of what the one before left: 1 - total is left in the end."""
    left = 1 - total
    return total if places == 1 or left <= 0 else 1 - left ** (1 / places)


def root(total: float, places: int) -> float:
    """Each place multiplies what the one before left."""
    return total if places == 1 or total <= 0 else total ** (1 / places)


PUSHED_UNITS: tuple[Unit, ...] = ("token_norm", "raw", "mean", "max", "calibrated", "auto")  # of methods that push


class Prepared(NamedTuple):
    """A steering of n edits on one device, float32."""

    directions: Tensor  # (n, d_in)
    strengths: Tensor  # (n,), in activation units where the unit is a multiple of a statistic
    normed: Tensor  # (n,): 1 where the strength is a fraction of the token's norm, else 0
    natural: Tensor  # (), mean over all tokens of what the method reads, Σ w_j m_j; nan where nobody measured it
    own: Mapping[str, Tensor]  # what the method prepared for itself
    row: PreparedRow | None  # of a method whose Δ is one row
    gate: Tensor  # (g,), the means of the gate's features where they fire; 0 where nothing asks for them


class Change(NamedTuple):
    """Δ (..., d_in), float32; and (...,) how strongly what the method acts on fires, as a multiple of its own mean.

    That is nan where nobody measured the mean, and None where the method acts on every token.
    """

    delta: Tensor
    presence: Tensor | None = None


class Words(NamedTuple):
    """A sentence for people in the pack's languages; it goes on after the method's name and a colon."""

    en: str
    zh: str


def never(inputs: SteeringInputs) -> bool:
    return False


def without_strength(inputs: SteeringInputs) -> bool:
    """Whether every edit's strength is 0."""
    return not any(inputs.strengths)


def _nothing_to_check(inputs: SteeringInputs) -> None:
    return None


def _nothing_of_its_own(inputs: SteeringInputs, scales: Tensor) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class SteeringMethod:
    """A method. What is left out is so for one that reads directions only and takes `raw` strengths."""

    name: str  # its word in nodes, recipes and files: public, never changed
    listed: int  # where it stands in lists
    words: Words  # what it does: tooltips, both languages, help pages
    strength_means: str  # what values of a strength do: the panel
    change: Callable[[SteeringInputs, Prepared, Tensor, float | None], Change]  # for x (..., d_in) float32, and sigma
    warning: str = ""  # told whenever it is used

    reads: frozenset[PartName] = frozenset()  # parts of the SAE; none where directions are enough
    needs: tuple[Literal["mean", "max", "density"], ...] = ()  # statistics of every feature, whatever the unit
    needs_replaces: bool = False  # features to take out, a list of their own
    each_once: bool = False  # whether a feature may not be named twice
    check: Callable[[SteeringInputs], object] = _nothing_to_check  # ValueError for what it alone cannot do

    pushes: bool = False  # puts directions there, whatever is there: `auto` is then a length, which edits share
    one_row: bool = False  # Δ is one row at every token, but for its length: `fast/one_row.py` adds it
    units: tuple[Unit, ...] = ()  # those that it knows; every other one means `raw`, or nothing where 1 is natural
    prepare: Callable[[SteeringInputs, Tensor], dict[str, Tensor]] = _nothing_of_its_own  # (inputs, (n,) units' sizes)
    acts_on: PresenceOf | None = None  # the input whose features it acts on where they fire; None for every token
    idle: Callable[[SteeringInputs], bool] = never  # whether Δ is zero by definition

    shared: Callable[[float, int], float] = each_the_total  # each one's strength of n places that find the others' work
    own_parts: bool = False  # whether of several edits each one's strength is shared by itself
    first_strength: float | None = None  # that calibration begins with; None where it cannot be calibrated

    @property
    def reads_codes(self) -> bool:
        """Whether it needs a dictionary with activations, and not directions alone."""
        return bool(self.reads)
