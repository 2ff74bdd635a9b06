"""Taps on the blocks of ComfyUI's models, for one call of the model, by the way that the family's row names.

There are three ways to a block: `places/families.py` says which of them reaches which stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ....places.depth import Attention, path_in_comfyui
from ....places.families import Family, Stack
from ....places.moment import Moment
from ....places.reach import CountedTap, Reach
from ....places.stream_taps import Tap
from ....places.unet_lists import holder
from ..unet_modules import module_at
from . import hook
from .output_list import after_attention, key_of
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
    attentions: Sequence[Attention] = (),
) -> Iterator[dict[str, Any]]:
    """A copy of `transformer_options` with the taps in their slots and lists; the given one stays as it is.

    Hooks on modules are there for the length of the `with` block. `reaches` count the blocks of each tap as they run,
    `attentions` are a UNet's.
    """
    with ExitStack() as hooks:
        for tap, reach in zip(taps, reaches or [Reach(tap.site) for tap in taps], strict=True):
            stack = family.stack(tap.site.kind)
            if stack is None:
                raise ValueError(f"location: {tap.site.location} is no place in {family.name}.")
            blocks = _in_unet(network, tap, attentions) if family.is_unet else getattr(network, stack.comfyui)
            placed = _placed(blocks, _filled(network, family, moment), stack, tap, moment, reach)
            inside = stack.module(tap.site.point, tap.site.stream)
            if stack.way == "slot":
                options = _in_slots(options, stack, placed)
            elif stack.way == "list" and tap.site.point == "block":
                options = _in_list(options, LIST, after_blocks(placed))
            elif inside is not None and inside.patches:
                path = path_in_comfyui(holder(tap.site.kind), attentions)
                keyed = {key_of(path, block): one for block, one in placed.items()}
                options = _in_list(options, inside.patches, after_attention(keyed))
            else:
                for one in placed.values():
                    for handle in hook.install(one):
                        hooks.callback(handle.remove)
        yield options


def _placed(
    blocks: Mapping[int, nn.Module] | Sequence[nn.Module], filled: int, stack: Stack, tap: Tap, moment: Moment,
    reach: Reach,
) -> dict[int, Placed]:  # fmt: skip
    return {block: Placed(CountedTap(tap, reach, block), stack, blocks, moment, filled) for block in tap.site.blocks}


def _filled(network: nn.Module, family: Family, moment: Moment) -> int:
    """The picture's tokens with those that fill them up."""
    multiple = getattr(network, family.padded_to) if family.padded_to else 1
    return -(-moment.image_tokens // multiple) * multiple


def _in_unet(network: nn.Module, tap: Tap, attentions: Sequence[Attention]) -> Mapping[int, nn.Module]:
    """The modules of the tap's list, by their numbers there."""
    kind, inside = tap.site.kind, holder(tap.site.kind)
    if inside:
        return dict(enumerate(module_at(network, path_in_comfyui(inside, attentions)).transformer_blocks))
    paths = {block: path_in_comfyui(f"{kind}.{block}", attentions) for block in tap.site.blocks}
    return {block: module_at(network, path) for block, path in paths.items()}


def _in_slots(options: dict[str, Any], stack: Stack, placed: dict[int, Placed]) -> dict[str, Any]:
    replaced = dict(options.get("patches_replace", {}))
    slots: dict[tuple[str, int], Slot] = dict(replaced.get("dit", {}))
    for block, one in placed.items():
        key = (stack.slot, block)
        slots[key] = compose(slots.get(key), one)
    return {**options, "patches_replace": {**replaced, "dit": slots}}


def _in_list(options: dict[str, Any], name: str, patch: Callable[..., Any]) -> dict[str, Any]:
    patches = dict(options.get("patches", {}))
    return {**options, "patches": {**patches, name: [*patches.get(name, []), patch]}}
