"""Several places at once, as the inputs `location` and `stream` name them where no SAE says where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .depth import Depth
from .families import Family
from .site import Site, parse_location, resolve_site

Choice = Callable[[Family, Depth], list[Site]]


def first_text(family: Family, depth: Depth) -> list[Site]:
    """The text as it enters the first block, before the picture's tokens read it.

    Measured on Shapes (lab/evidence/contrast_rows.py), `swap` 1, strict, changes of colour, shape, place, size and
    background: there 99, 98, 99, 98 and 96 %; behind the first block 99, 17, 23, 13 and 0 %. Changes of colour behind
    the second block 80 %, at all attention outputs of the picture 25 % (77 % with 2), at all its block outputs 3 %.
    Families whose blocks carry no text get `picture_attention`, UNets `wide_updates`.
    """
    if family.is_unet:
        return wide_updates(depth)
    stack = family.stacks[0]
    site = Site(stack.kind, (0,), "input", "text")
    return [site] if family.takes(site, depth) else picture_attention(family, depth)


def picture_attention(family: Family, depth: Depth) -> list[Site]:
    """Every block's attention output, in the picture's stream; the blocks' outputs in a family that offers none.

    Of a UNet `wide_updates`.
    """
    if family.is_unet:
        return wide_updates(depth)
    found = [
        Site(stack.kind, (block,), "attn", "image") for stack in family.stacks for block in range(depth.of(stack.kind))
    ]
    offered = [site for site in found if family.takes(site, depth)]
    return offered or [replace(site, point="block") for site in found]


def wide_updates(depth: Depth) -> list[Site]:
    """What each of a UNet's widest transformers adds: where the public SAEs of SDXL-Turbo and their neighbours are.

    Of SDXL the last two on the way down, the middle and the first three on the way up; of Stable Diffusion 1 the same a
    level higher. Places of one width, so that their directions make one set.
    """
    widest = max((one.width for one in depth.attentions), default=0)
    listed = (one.listed for one in depth.attentions if one.width == widest)
    return [Site(path, (number,), "update", "image") for path, number in listed]


def sites_of(family: Family, depth: Depth, location: str, stream: str, auto: Choice) -> list[Site]:
    """One site for each block that is named; `;` stands between several locations, and 'auto' is what `auto` chooses.

    Raises ValueError for a place that a model of this family and depth lacks, or a stream that nothing carries.
    """
    if location.strip() in ("", "auto"):
        named = [resolve_site("auto", stream, site) for site in auto(family, depth)]
    else:
        named = [parse_location(part, stream) for part in location.split(";") if part.strip()]
    if not named:
        raise ValueError(f"location: {location!r} names no place; write one such as transformer_blocks.0, or auto.")
    placed = [family.place(site, depth) for site in named]
    return list(dict.fromkeys(replace(site, blocks=(block,)) for site in placed for block in site.blocks))
