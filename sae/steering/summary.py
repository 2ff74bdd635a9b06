"""What a run's steering really did, as it is told: steps steered, ‖Δ‖/‖x‖, and what stood in its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LARGE_DELTA = 0.5  # of a token's norm: beyond this the activation is destroyed rather than steered
LARGE_EMBED_DELTA = 1.0  # the same for an embedding before the generator (lab/kandinsky/limit.py measures it)
HARDLY = 0.1  # of the features' own mean: on Shapes it is 0.6 to 1.3 where they belong, 0.03 where they do not
LOST_TO_ROUNDING = 0.5  # share of ‖Δ‖² that survives the addition below which the dtype eats the steering

PresenceOf = Literal[
    "replaces", "features", "where_active"
]  # the input whose features a method acts on where they fire

_NOTHING: Mapping[PresenceOf, str] = {
    "replaces": "take out and replace",
    "features": "act on",
    "where_active": "act on",
}


@dataclass(frozen=True)
class Held:
    """Sums that would have gone beyond the largest number of the model's dtype and were held there."""

    share: float  # of the steered tokens
    dtype: str
    largest: float

    def __str__(self) -> str:
        return (
            f"At {self.share:.1%} of the steered tokens Δ led beyond {self.largest:.6g}, the largest number of "
            f"{self.dtype}, and was held there, where more strength changes nothing: lower the strength, or load the "
            "model in bfloat16."
        )


@dataclass(frozen=True)
class Broken:
    """NaN or infinite numbers at a place, the first that had any."""

    place: str
    steps: int
    by_delta: bool  # whether they came with Δ, and not with the activations

    def __str__(self) -> str:
        what = "Δ was" if self.by_delta else "The activations were"
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        remedy = "lower the strength" if self.by_delta else "look before this node for what broke them"
        return (
            f"{what} NaN or infinite at {self.place or 'the embedding'} in {steps}, which spoils the picture: "
            f"{remedy}, or load the model in a higher precision."
        )


@dataclass(frozen=True)
class RunSummary:
    """Steps steered and the ratio ‖Δ‖/‖x‖: its mean over tokens, blocks and steps, and its largest value."""

    steps: int = 0
    mean_ratio: float = 0.0
    max_ratio: float = 0.0
    kept: float = 1.0  # share of ‖Δ‖² that the model's dtype kept
    largest_mean: float = 0.0  # largest mean over the tokens of one block in one step
    largest_at: str = ""  # where that was, if several places were steered
    curve: tuple[tuple[float, float], ...] = ()  # (sigma, mean ‖Δ‖/‖x‖) of each step, noise first
    unreached: tuple[str, ...] = ()  # sentences that name places which the run never came to
    # how strongly the features of an input fired at the steered tokens, as a multiple of their own mean over all tokens
    presence: Mapping[PresenceOf, float] = field(default_factory=dict)
    missed: bool = False  # whether parts of the picture were left alone because their place was not known
    unsided: bool = False  # whether rows were left alone because nobody knew on which side of guidance they are
    limit: float = LARGE_DELTA  # of ‖Δ‖/‖x‖, above which it warns
    held: Held | None = None  # where sums would have gone beyond the dtype's numbers
    broken: Broken | None = None  # where NaN or infinite numbers came
    ruined: bool = False  # whether the run's result holds NaN or infinite numbers
    told: tuple[str, ...] = ()  # sentences on what stood in the way of the run as a whole

    def __str__(self) -> str:
        if self.steps == 0:
            return "No step was steered."
        unit = "step" if self.steps == 1 else "steps"
        ratio = f"mean ‖Δ‖/‖x‖ {self.mean_ratio:.3g}, at one token up to {self.max_ratio:.3g}"
        return f"Steered {self.steps} {unit}; {ratio}."

    @property
    def warnings(self) -> list[str]:
        found = [*self.told, *self.unreached]
        if self.missed:
            found.append(
                "The mask was not used everywhere: the model was given parts of the picture whose place is not known, "
                "and they were not steered. Leave the mask away, or the node that cuts the picture into parts."
            )
        if self.unsided:
            found.append(
                "apply_to was not followed everywhere: of some prompts it is not known on which side of guidance they "
                "are, and they were not steered. Choose both, or leave out the node that brings prompts of its own."
            )
        found += [str(fault) for fault in (self.held, self.broken) if fault is not None]
        if self.ruined:
            found.append(
                "The picture came out as NaN, which shows as black: lower the strength, or load the model in a higher "
                "precision; where it is black without steering too, the cause is another."
            )
        if self.steps and self.largest_mean > self.limit:
            where = f" at {self.largest_at}" if self.largest_at else ""
            found.append(
                f"Δ reached {self.largest_mean:.2g} of the token norm{where}; above {self.limit:g} it destroys the "
                "activation instead of steering it: lower the strength."
            )
        found += [
            f"The features in '{which}' hardly fire here, at {presence:.1%} of their own mean, so there was almost "
            f"nothing to {_NOTHING[which]}: find them anew for the prompt that is steered, and at the same place."
            for which, presence in self.presence.items()
            if presence < HARDLY
        ]
        if self.steps and self.kept < LOST_TO_ROUNDING:
            found.append(
                f"The model's precision kept only {self.kept:.0%} of Δ, the rest was rounded away: raise the "
                "strength or load the model in a higher precision."
            )
        return found

    def check_reached(self) -> None:
        """Raises ValueError when no step was steered because the place was never reached."""
        if not self.steps and self.unreached:
            raise ValueError(f"location: {self.unreached[0]}")
