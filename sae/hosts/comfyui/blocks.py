"""Taps on the blocks of ComfyUI's FLUX classes, composed at run time on top of whatever sits in the block slots.

A slot of `patches_replace["dit"]` holds one function `f(args, {"original_block": g})`. Double blocks carry `img` and
`txt`, single blocks one tensor `img` with the text first. Both kinds may write in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...places import taps as recorded
from ...places.moment import Moment
from ...places.reach import CountedTap, Reach
from ...places.taps import Tap
from .allocation import unrecorded, without_record

# What a tap returns replaces the block's own output, and so outlives the block's call.
tap_image, tap_text, tap_tokens = map(without_record, (recorded.tap_image, recorded.tap_text, recorded.tap_tokens))

Args = dict[str, Any]
RunBlock = Callable[[Args], Args]
Slot = Callable[[Args, dict[str, Any]], Args]


def with_taps(
    options: dict[str, Any], transformer: nn.Module, taps: Sequence[Tap], moment: Moment, reach: Reach | None = None
) -> dict[str, Any]:
    """A copy of `transformer_options` in which the taps sit around their blocks; the given one stays as it is.

    `reach` counts the blocks of a tap as they run.
    """
    replaced = dict(options.get("patches_replace", {}))
    slots: dict[tuple[str, int], Slot] = dict(replaced.get("dit", {}))
    for tap in taps:
        counts = reach or Reach(tap.site)
        for block in tap.site.blocks:
            key = (f"{tap.site.kind}_block", block)
            counted = CountedTap(tap, counts, block)
            slots[key] = _compose(slots.get(key), counted, _block_of(transformer, tap, block), moment)
    return {**options, "patches_replace": {**replaced, "dit": slots}}


def _block_of(transformer: Any, tap: Tap, block: int) -> nn.Module:
    return (transformer.double_blocks if tap.site.kind == "double" else transformer.single_blocks)[block]


def _compose(previous: Slot | None, tap: CountedTap, block: nn.Module, moment: Moment) -> Slot:
    around = _around_output if tap.site.point in ("block", "update") else _around_inside

    @torch.compiler.disable
    def patched(args: Args, extra: dict[str, Any]) -> Args:
        tap.enter()

        def run(given: Args) -> Args:
            return extra["original_block"](given) if previous is None else previous(given, extra)

        return around(run, args, tap, block, replace(moment, text_tokens=_text_tokens(args, moment)))

    return patched


def _text_tokens(args: Args, moment: Moment) -> int:
    if "txt" in args:
        return args["txt"].shape[1]
    image_slice = (args.get("transformer_options") or {}).get("img_slice")
    return image_slice[0] if image_slice else moment.text_tokens


def _around_output(run: RunBlock, args: Args, tap: Tap, block: nn.Module, moment: Moment) -> Args:
    update = tap.site.point == "update"
    with unrecorded():
        before = {name: args[name].clone() for name in ("img", "txt") if name in args} if update else {}
    out = run(args)
    if "txt" not in args:
        return {**out, "img": tap_tokens(tap, out["img"], moment, before.get("img"))}
    if tap.site.stream == "image":
        return {**out, "img": tap_image(tap, out["img"], moment, before.get("img"))}
    return {**out, "txt": tap_text(tap, out["txt"], moment, before.get("txt"))}


def _around_inside(run: RunBlock, args: Args, tap: Tap, block: nn.Module, moment: Moment) -> Args:
    with _hooked(block, tap, moment):
        return run(args)


@contextmanager
def _hooked(block: Any, tap: Tap, moment: Moment) -> Iterator[None]:
    """A forward hook on the module whose output (or input) is the site, for the length of one block call."""
    if tap.site.kind == "single":
        # The attention's output is the first columns of linear2's input; the MLP's hidden units follow.
        handle = block.linear2.register_forward_pre_hook(_change_columns(tap, block.hidden_size, moment))
    else:
        side = "img" if tap.site.stream == "image" else "txt"
        module = getattr(block, f"{side}_attn").proj if tap.site.point == "attn" else getattr(block, f"{side}_mlp")
        handle = module.register_forward_hook(_change_output(tap, moment))
    try:
        yield
    finally:
        handle.remove()


def _change_output(tap: Tap, moment: Moment) -> Callable[..., Tensor]:
    change = tap_image if tap.site.stream == "image" else tap_text

    @torch.compiler.disable
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return change(tap, output, moment)

    return hook


def _change_columns(tap: Tap, width: int, moment: Moment) -> Callable[..., tuple[Tensor, ...]]:
    @torch.compiler.disable
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        attention, hidden = inputs[0][..., :width], inputs[0][..., width:]
        changed = tap_tokens(tap, attention, moment)
        return inputs if changed is attention else (torch.cat([changed, hidden], dim=-1), *inputs[1:])

    return hook
