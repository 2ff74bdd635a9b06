"""The slot way: a function in `patches_replace["dit"]`, composed on top of whatever sits in the slot.

A slot holds one function `f(args, {"original_block": g})`. `img` and `txt` are two streams, or `img` is a sequence of
both with the text first, or `txt` is only read by the block and not returned. Blocks may write in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ....places.moment import Moment
from ..memory import unrecorded
from .inside import hooked_inside
from .placed import Placed

Args = dict[str, Any]
RunBlock = Callable[[Args], Args]
Slot = Callable[[Args, dict[str, Any]], Args]


def compose(previous: Slot | None, placed: Placed) -> Slot:
    """The slot's function: what was in it, with the tap around it."""
    point = placed.tap.site.point
    around = _around_input if point == "input" else _around_output if point in ("block", "update") else _around_inside

    @torch.compiler.disable
    def patched(args: Args, extra: dict[str, Any]) -> Args:
        placed.enter()

        def run(given: Args) -> Args:
            return extra["original_block"](given) if previous is None else previous(given, extra)

        return around(run, args, placed, _now(args, placed))

    return patched


def _now(args: Args, placed: Placed) -> Moment:
    if placed.stack.carries == "apart":
        return replace(placed.moment, text_tokens=args["txt"].shape[1])
    return placed.now(args["img"].shape[1], args.get("transformer_options"))


def _around_input(run: RunBlock, args: Args, placed: Placed, moment: Moment) -> Args:
    return run({**args, placed.kept: placed.change(args[placed.kept], moment)})


def _around_output(run: RunBlock, args: Args, placed: Placed, moment: Moment) -> Args:
    key = placed.kept
    with unrecorded():
        before = args[key].clone() if placed.tap.site.point == "update" else None
    out = run(args)
    return {**out, key: placed.change(out[key], moment, before)}


def _around_inside(run: RunBlock, args: Args, placed: Placed, moment: Moment) -> Args:
    with hooked_inside(placed, lambda tokens: moment):
        return run(args)
