"""Taps on the blocks of ComfyUI's models, for one call of the model, by the way that the family's row names.

There are three ways to a block: `places/families.py` says which of them reaches which stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ....places.families import Family, Stack
from ....places.moment import Moment
from ....places.reach import CountedTap, Reach
from ....places.stream_taps import Tap
from . import hook
from .patch_list import after_blocks
from .placed import Placed
from .slot import Slot, compose

LIST = "double_block"  # the list of `patches` that is called after every block


@contextmanager
def tapped(
    options: dict[str, Any],
    network: nn.Module,
    family: Family,
    taps: Sequence[Tap],
    moment: Moment,
    reaches: Sequence[Reach] | None = None,
) -> Iterator[dict[str, Any]]:
    """A copy of `transformer_options` with the taps in their slots and lists; the given one stays as it is.

    Hooks on modules are there for the length of the `with` block. `reaches` count the blocks of each tap as they run.
    """
    with ExitStack() as hooks:
        for tap, reach in zip(taps, reaches or [Reach(tap.site) for tap in taps], strict=True):
            stack = family.stack(tap.site.kind)
            if stack is None:
                raise ValueError(f"location: {tap.site.location} is no place in {family.name}.")
            placed = _placed(network, family, stack, tap, moment, reach)
            if stack.way == "slot":
                options = _in_slots(options, stack, placed)
            elif stack.way == "list" and tap.site.point == "block":
                options = _in_list(options, placed)
            else:
                for one in placed.values():
                    for handle in hook.install(one):
                        hooks.callback(handle.remove)
        yield options


def _placed(
    network: nn.Module, family: Family, stack: Stack, tap: Tap, moment: Moment, reach: Reach
) -> dict[int, Placed]:
    blocks = getattr(network, stack.comfyui)
    multiple = getattr(network, family.padded_to) if family.padded_to else 1
    filled = -(-moment.image_tokens // multiple) * multiple
    return {block: Placed(CountedTap(tap, reach, block), stack, blocks, moment, filled) for block in tap.site.blocks}


def _in_slots(options: dict[str, Any], stack: Stack, placed: dict[int, Placed]) -> dict[str, Any]:
    replaced = dict(options.get("patches_replace", {}))
    slots: dict[tuple[str, int], Slot] = dict(replaced.get("dit", {}))
    for block, one in placed.items():
        key = (stack.slot, block)
        slots[key] = compose(slots.get(key), one)
    return {**options, "patches_replace": {**replaced, "dit": slots}}


def _in_list(options: dict[str, Any], placed: dict[int, Placed]) -> dict[str, Any]:
    patches = dict(options.get("patches", {}))
    return {**options, "patches": {**patches, LIST: [*patches.get(LIST, []), after_blocks(placed)]}}
