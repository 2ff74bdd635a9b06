"""The rows of the evidence: where, how and how much is steered. Data, and how each row is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sae.places.moment import WHOLE_RUN, Schedule
from sae.steering.edits import Method, Unit

Where = Literal["entering", "text", "attention", "image", "set", "text and set"]
# "scale, set": two nodes in a row, the source's features out and the target's in.
# "difference": no SAE; the difference of the two prompts' mean activations is added to every token.
How = Method | Literal["scale, set", "difference"]

TOLD: dict[Where, str] = {
    "entering": "transformer_blocks.0.input, text",
    "text": "transformer_blocks.0, text",
    "attention": "transformer_blocks.1.attn, image",
    "image": "transformer_blocks.1, image",
    "set": "all six attention outputs, image",
    "text and set": "text and all six attention outputs",
}
BEST = 1.0  # of swap in the text stream
BEST_SET = 1.5  # of swap at each place of the set
MANY, FEATURES, MANY_FEATURES = 8, 8, 32  # prompts of a search; features from each side of a contrast, at most


@dataclass(frozen=True)
class Row:
    """`strength` is that of each place. With `random`, also the control: as far, along a random direction."""

    where: Where
    method: How
    strength: float = 1.0
    unit: Unit = "token_norm"
    schedule: Schedule = WHOLE_RUN
    region: Literal["", "shape", "heat"] = ""
    rank: str = "mean"  # one of RANKS
    random: bool = False
    prompts: int = 1  # that the features were found with
    count: int = FEATURES

    def __str__(self) -> str:
        how = {"scale, set": "scale 0, then set", "difference": "no SAE: difference of means,"}.get(
            self.method, self.method
        )
        unit = f" {self.unit}" if self.method in ("add", "scale, set") else ""
        start, end = self.schedule.start_percent, self.schedule.end_percent
        extras = [
            f"{start:.0%} to {end:.0%} of the run" if self.schedule != WHOLE_RUN else "",
            {"": "", "shape": "on the shape", "heat": "where the heat is"}[self.region],
            f"ranked by {self.rank}" if self.rank != "mean" else "",
            f"found with {self.prompts} prompts" if self.prompts > 1 else "",
            f"{self.count} feature{'s' if self.count > 1 else ''}" if self.count != FEATURES else "",
        ]
        return ", ".join([f"{how} {self.strength:g}{unit}", *filter(None, extras)])


def _many(strength: float, **more: Any) -> Row:
    """`swap` at every place of the set, as it works best."""
    return Row("set", "swap", strength, prompts=MANY, count=MANY_FEATURES, **more)


REGIONS: tuple[Literal["shape", "heat"], ...] = ("shape", "heat")
RANKS = ("mean", "effect")
SCHEDULES = EARLY, LATE = Schedule(0, 0.5), Schedule(0.5, 1)

# Changes of colour: places, methods, strengths, moments, regions, ways of choosing features.
COLOUR_ROWS: tuple[Row, ...] = (
    Row("entering", "swap", BEST, random=True),
    Row("entering", "swap", BEST, prompts=MANY, count=MANY_FEATURES),
    *(Row("text", "swap", strength, random=strength == BEST) for strength in (0.5, 0.75, 1.0, 1.5)),
    *(Row("text", "swap", BEST, schedule=schedule) for schedule in SCHEDULES),
    *(Row("entering", "swap", BEST, schedule=schedule) for schedule in SCHEDULES),
    Row("entering", "replace", random=True),
    Row("text", "replace"),
    Row("set", "replace", prompts=MANY, count=MANY_FEATURES),
    Row("text", "scale, set", 1.0, "mean"),
    Row("text", "add", 0.2),
    Row("text", "difference"),
    Row("attention", "swap", 1.0),
    Row("image", "swap", 1.0),
    *(Row("set", "swap", strength) for strength in (1 / 6, 1.0, 1.25)),
    *(_many(strength, random=strength == BEST_SET) for strength in (0.5, 1.0, 1.25, 1.5)),
    *(_many(BEST_SET, schedule=schedule) for schedule in SCHEDULES),
    *(_many(BEST_SET, region=region) for region in REGIONS),
    Row("set", "scale, set", 1.0, "mean", region="shape"),
    Row("set", "add", 0.2, region="shape"),
    Row("set", "difference"),
    Row("set", "difference", prompts=MANY),
    Row("text and set", "swap", 1.0, random=True),
    *(Row("text", "swap", BEST, rank=rank, count=count) for count in (2, 4) for rank in RANKS),
    Row("text", "swap", BEST, rank="effect"),
    *(Row("entering", "swap", BEST, rank=rank, count=count) for count in (1, 2) for rank in RANKS),
)
# Changes of every other kind of word.
KIND_ROWS: tuple[Row, ...] = (
    Row("entering", "swap", BEST, random=True),
    Row("entering", "swap", BEST, prompts=MANY, count=MANY_FEATURES),
    Row("entering", "replace", random=True),
    Row("text", "swap", BEST),
    Row("text", "replace"),
    Row("text", "swap", BEST, prompts=MANY, count=MANY_FEATURES),
    Row("text", "difference"),
    _many(BEST_SET, random=True),
    Row("set", "difference", prompts=MANY),
)
