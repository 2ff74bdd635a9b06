"""Which side of guidance each row of a call is on.

Core numbers the lists of prompts of a batch (`cond_or_uncond`), and each guider puts its lists in an order of its own:
0 is the positive prompt in most, the negative in DualCFGGuider, the only list of each model in DualModelGuider. The
guider's lists have names, and a prompt keeps its `uuid` on its way from there to a call of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...places.moment import COND, NEITHER, UNCOND, UNKNOWN

PROMPTS_KEY, LISTS_KEY = "sae_steering_prompts", "sae_steering_lists"  # in `transformer_options`

NAMES = {"positive": COND, "negative": UNCOND}
Conds = Sequence[Sequence[Mapping[str, Any]] | None]


@dataclass(frozen=True)
class Prompts:
    """The guider's prompts before core adds copies of them to other lists, as it does where a prompt has an area."""

    sides: Mapping[Any, int]  # by uuid
    copied: bool  # whether a uuid may stand in several lists

    @classmethod
    def of(cls, conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> Prompts:
        """Lists of other names than core's two sides are neither; where it has none of the two, nothing is known."""
        if not NAMES.keys() & conds.keys():
            return cls({}, False)
        sides = {
            prompt.get("uuid"): NAMES.get(name, NEITHER) for name, prompts in conds.items() for prompt in prompts or ()
        }
        cut = any("area" in prompt or "mask" in prompt for prompts in conds.values() for prompt in prompts or ())
        return cls(sides, cut and len(conds) > 1)

    def of_list(self, prompts: Sequence[Mapping[str, Any]] | None) -> int:
        """The side of a list that is calculated; its own prompts stand before the copies."""
        return self.sides.get(prompts[0].get("uuid"), UNKNOWN) if prompts else UNKNOWN

    def of_row(self, uuid: Any) -> int:
        """The side of a prompt of which it is not known in which list it stood."""
        return UNKNOWN if self.copied else self.sides.get(uuid, UNKNOWN)


@dataclass(frozen=True)
class Lists:
    """The lists of one batch: the side of each, and how many pictures each of their prompts is calculated for."""

    sides: tuple[int, ...]
    pictures: int

    @classmethod
    def of(cls, conds: Conds, pictures: int, prompts: Prompts) -> Lists:
        return cls(tuple(prompts.of_list(found) for found in conds), pictures)


def sides_of(rows: int, options: Mapping[str, Any]) -> tuple[int, ...]:
    """`sides` of a Moment for a call with so many rows.

    Outside of a run, core's numbers are taken at their word. Where another node stacks rows so that they are no longer
    one equal part for each prompt, such as several tiles in one call, each row is a part of its own.
    """
    numbers = tuple(options.get("cond_or_uncond") or (COND,))
    prompts, lists = options.get(PROMPTS_KEY), options.get(LISTS_KEY)
    if prompts is None:
        return numbers
    if lists is None:
        uuids = options.get("uuids") or ()
        same = len(uuids) == len(numbers)
        return tuple(prompts.of_row(uuid) for uuid in uuids) if same else (UNKNOWN,) * len(numbers)
    found = tuple(lists.sides[number] if number < len(lists.sides) else UNKNOWN for number in numbers)
    if rows == len(numbers) * lists.pictures:
        return found
    return (found[0] if len(set(found)) == 1 else UNKNOWN,) * rows
