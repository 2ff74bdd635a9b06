"""Places in a network: how they are written, named by SAE files, and checked against a model's depth.

Locations are diffusers' module paths, the field's names for SAE sites; ComfyUI's block names are synonyms. What is
written here holds for every family; `families.py` tells what one family has of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ..files.quote import quoted, shown
from .depth import Depth, Kind, in_diffusers, join_blocks
from .unet_lists import ATTENTIONS, IN_NAME, INSIDE, LIST, sort_of

# input: what the block reads; block: what it returns; cross: attention to the text
# transcoder: reads what goes into the MLP and writes onto what comes out of it
Point = Literal["input", "block", "update", "attn", "cross", "mlp", "transcoder"]
Stream = Literal["image", "text", "joint"]

STREAMS: tuple[Stream, ...] = ("image", "text", "joint")
EXAMPLES = (
    "transformer_blocks.0-18.attn, transformer_blocks.3,5.ff, single_transformer_blocks.9 or, in a UNet, "
    "down_blocks.2.attentions.1"
)

_STACKS: dict[str, Kind] = {
    "transformer_blocks": "double",
    "double_blocks": "double",
    "single_transformer_blocks": "single",
    "single_blocks": "single",
    "joint_blocks": "double",
    "blocks": "blocks",
    "layers": "layers",
}
_NAMES: dict[Kind, str] = {
    "double": "transformer_blocks",
    "single": "single_transformer_blocks",
    "blocks": "blocks",
    "layers": "layers",
}
# suffix -> point and, where the module serves one stream only, that stream
_POINTS: dict[Kind, dict[str, tuple[Point, Stream | None]]] = {
    "double": {
        "": ("block", None),
        "input": ("input", None),
        "update": ("update", None),
        "attn": ("attn", None),
        "ff": ("mlp", "image"),
        "ff_context": ("mlp", "text"),
        "img_attn": ("attn", "image"),
        "txt_attn": ("attn", "text"),
        "img_attn.proj": ("attn", "image"),
        "txt_attn.proj": ("attn", "text"),
        "img_mlp": ("mlp", "image"),
        "txt_mlp": ("mlp", "text"),
        "ff.transcoder": ("transcoder", "image"),
        "ff_context.transcoder": ("transcoder", "text"),
        "img_mlp.transcoder": ("transcoder", "image"),
        "txt_mlp.transcoder": ("transcoder", "text"),
        "attn1": ("attn", "image"),
        "self_attn": ("attn", "image"),
    },
    "single": {"": ("block", None), "input": ("input", None), "update": ("update", None), "attn": ("attn", None)},
    "blocks": {
        "": ("block", None),
        "input": ("input", None),
        "update": ("update", None),
        "attn1": ("attn", None),
        "attn": ("attn", None),
        "self_attn": ("attn", None),
        "ffn": ("mlp", None),
        "ff": ("mlp", None),
        "mlp": ("mlp", None),
        "ffn.transcoder": ("transcoder", None),
        "ff.transcoder": ("transcoder", None),
        "mlp.transcoder": ("transcoder", None),
    },
    "layers": {
        "": ("block", None),
        "input": ("input", None),
        "update": ("update", None),
        "attention": ("attn", None),
        "attn": ("attn", None),
        "feed_forward": ("mlp", None),
        "feed_forward.transcoder": ("transcoder", None),
    },
    ATTENTIONS: {"": ("block", None), "input": ("input", None), "update": ("update", None)},
    INSIDE: {
        "": ("block", None),
        "input": ("input", None),
        "update": ("update", None),
        "attn1": ("attn", None),
        "attn2": ("cross", None),
        "ff": ("mlp", None),
        "ff.transcoder": ("transcoder", None),
    },
}
_SUFFIXES: dict[Kind, dict[Point, str]] = {
    "blocks": {"attn": ".attn1", "mlp": ".ffn"},
    "layers": {"attn": ".attention", "mlp": ".feed_forward"},
    INSIDE: {"attn": ".attn1", "cross": ".attn2"},
}
LONGEST = 1000  # characters of a location, which may list every block
_DEFAULT_STREAMS: dict[Kind, Stream] = {"single": "joint", "layers": "joint"}  # of all others the image
_LOCATION = re.compile(
    rf"(?:unet\.)?(?P<stack>{LIST}|[a-z_]+)\.(?P<blocks>[0-9][0-9,\- ]*)(?:\.(?P<point>[a-z_][a-z_.0-9]*))?"
)
# Inside a file or folder name: cc3m-transformer_blocks.0-1-k-16 names block 0, stream number 1. A further part, as in
# single_transformer_blocks.9.proj_mlp, names another place; a file's suffix does not.
_IN_NAME = re.compile(
    r"(?<![a-z_])(?P<stack>single_transformer_blocks|transformer_blocks)\.(?P<block>[0-9]{1,4})"
    r"(?:\.(?P<point>attn|(?:ff_context|ff)(?:\.transcoder)?|update|input))?(?:-(?P<stream>image|text|joint|[01])(?![0-9]))?"
    r"(?![0-9a-z]|\.(?!(?:safetensors|pt|pth|bin|npz)\b)[a-z])"
)


@dataclass(frozen=True)
class Site:
    """One point in one or more blocks, for one stream."""

    kind: Kind
    blocks: tuple[int, ...]
    point: Point
    stream: Stream

    def __str__(self) -> str:
        return f"{self.location} ({self.stream})"

    @property
    def location(self) -> str:
        return f"{stack_name(self.kind)}.{join_blocks(self.blocks)}{point_suffix(self.kind, self.point, self.stream)}"

    @property
    def name(self) -> str:
        """As its folder is called."""
        return f"{self.location}-{self.stream}"

    def check(self, depth: Depth) -> None:
        """Raises ValueError when the model has no such block."""
        count = depth.of(self.kind)
        beyond = [block for block in self.blocks if block >= count]
        if beyond:
            last = f"0 to {count - 1}" if count else "none at all"
            raise ValueError(
                f"location: {self.location} names block {beyond[0]}, but this model's {kind_name(self.kind)} are "
                f"{last}."
            )

    def late_blocks(self, depth: Depth) -> tuple[int, ...]:
        """The blocks after which (almost) nothing is left to change: the last twentieth of the depth, at least one."""
        first_late = depth.total - max(1, depth.total // 20)
        return tuple(block for block in self.blocks if depth.position(self.kind, block) >= first_late)

    def in_diffusers(self, depth: Depth) -> Site | None:
        """A place in a UNet by diffusers' names; None where this one has none that ComfyUI calls so."""
        found = [in_diffusers(self.kind, block, depth.attentions) for block in self.blocks]
        named = [place for place in found if place is not None and place[0] == (found[0] or ("",))[0]]
        if len(named) < len(found):
            return None
        return replace(self, kind=named[0][0], blocks=tuple(block for _, block in named))


def kind_name(kind: Kind) -> str:
    """As messages call several of them."""
    return {"double": "double blocks", "single": "single blocks"}.get(kind, kind)


def points_of(kind: Kind) -> tuple[Point, ...]:
    return tuple(dict.fromkeys(point for point, _ in _POINTS[sort_of(kind)].values()))


def stack_name(kind: Kind) -> str:
    """As locations call it."""
    return _NAMES.get(kind, kind)


def point_suffix(kind: Kind, point: Point, stream: Stream) -> str:
    """What stands behind the block's number."""
    if point == "transcoder":
        return f"{point_suffix(kind, 'mlp', stream)}.transcoder"
    if point == "mlp" and kind == "double" and stream == "text":
        return ".ff_context"
    plain: dict[Point, str] = {
        "input": ".input", "block": "", "update": ".update", "attn": ".attn", "cross": ".cross", "mlp": ".ff",
    }  # fmt: skip
    return {**plain, **_SUFFIXES.get(sort_of(kind), {})}[point]


def parse_location(location: str, stream: str = "auto") -> Site:
    """Reads such as `transformer_blocks.0-3.attn`, `double_blocks.5.img_mlp`, `down_blocks.2.attentions.0-1.update`.

    With stream "auto", double blocks and `blocks` take the image stream, single blocks and `layers` the joint one,
    unless the location says which (`.ff_context` is text). Raises ValueError naming what is wrong.
    """
    kind, blocks, point, own_stream = _read_location(location)
    return Site(kind, blocks, point, _choose_stream(kind, own_stream, stream, location))


def parse_sites(given: Iterable[str]) -> dict[str, Site]:
    """Sites by their names, from such as transformer_blocks.0:text."""
    parts = [text.partition(":") for text in given]
    sites = [parse_location(location, stream.strip() or "auto") for location, _, stream in parts]
    return {site.name: site for site in sites}


def _read_location(location: str) -> tuple[Kind, tuple[int, ...], Point, Stream | None]:
    """Kind, blocks, point and, where the location says it, the stream."""
    match = _LOCATION.fullmatch(location.strip()) if len(location) <= LONGEST else None
    kind = _kind_called(match["stack"]) if match else None
    if match is None or kind is None:
        raise ValueError(
            f"location: {quoted(location)} is not a place in FLUX or another known model; write it like {EXAMPLES}."
        )
    points = _POINTS[sort_of(kind)]
    suffix = match["point"] or ""
    if suffix not in points:
        known = ", ".join(f".{name}" for name in points if name)
        raise ValueError(
            f"location: {kind_name(kind)} have no point {quoted(suffix)}; they have {known} or none for the output."
        )
    point, own_stream = points[suffix]
    return kind, _parse_blocks(match["blocks"], location), point, own_stream


def _kind_called(stack: str) -> Kind | None:
    return stack if sort_of(stack) in (ATTENTIONS, INSIDE) else _STACKS.get(stack)


def site_from_name(name: str) -> Site | None:
    """The site that an SAE's file or folder name tells, or None.

    Stream numbers are read as RE-N-Y counts them, by diffusers' tuple index: the output of a double block is
    (text, image), the output of its attention (image, text).
    """
    in_unet = list(IN_NAME.finditer(name)) if len(name) <= LONGEST else []
    if in_unet:
        match = in_unet[-1]
        points = _POINTS[sort_of(match["list"])]
        known = (match["point"] or "") in points
        return Site(match["list"], (int(match["block"]),), points[match["point"] or ""][0], "image") if known else None
    matches = list(_IN_NAME.finditer(name)) if len(name) <= LONGEST else []
    if not matches:
        return None
    match = matches[-1]
    kind = _STACKS[match["stack"]]
    if match["point"] and match["point"] not in _POINTS[kind]:
        return None
    point, own_stream = _POINTS[kind][match["point"] or ""]
    stream = own_stream or _stream_in_name(kind, point, match["stream"])
    return None if stream is None else Site(kind, (int(match["block"]),), point, stream)


def _stream_in_name(kind: Kind, point: Point, written: str | None) -> Stream | None:
    """None where a name tells too little: a double block without its stream, a single one with a bare number."""
    if kind == "double" and written in ("0", "1"):
        order: tuple[Stream, Stream] = ("image", "text") if point == "attn" else ("text", "image")
        return order[int(written)]
    if kind == "single" and written is None:
        return "joint"
    allowed = STREAMS if kind == "single" else STREAMS[:2]
    return next((stream for stream in allowed if stream == written), None)


def resolve_site(location: str, stream: str, own: Site | None) -> Site:
    """What the inputs `location` and `stream` mean for an SAE whose own site is `own` (None when unknown)."""
    if location.strip() in ("", "auto"):
        if own is None:
            raise ValueError(
                f"location: this SAE's file does not tell where in the model it belongs, so 'auto' cannot be used; "
                f"give the location, for example {EXAMPLES}."
            )
        if stream == "auto":
            return own
        fixed = own.stream if own.point in ("mlp", "transcoder") and own.kind == "double" else None
        return replace(own, stream=_choose_stream(own.kind, fixed, stream, str(own)))
    kind, _, point, said = _read_location(location)
    if stream == "auto" and said is None and own is not None and (kind, point) == (own.kind, own.point):
        return parse_location(location, own.stream)
    return parse_location(location, stream)


def _choose_stream(kind: Kind, own: Stream | None, asked: str, location: str) -> Stream:
    if asked == "auto":
        return own or _DEFAULT_STREAMS.get(kind, "image")
    if asked not in STREAMS:
        raise ValueError(f"stream: {quoted(asked)} is not a stream; use auto, image, text or joint.")
    if own is not None and asked != own:
        raise ValueError(
            f"stream: {shown(location)} carries the {own} stream, but {asked!r} was asked; use {own} or auto."
        )
    if kind == "double" and asked == "joint":
        raise ValueError(
            f"stream: double blocks such as {shown(location)} keep image and text apart; use image or text."
        )
    return next(stream for stream in STREAMS if stream == asked)


def _parse_blocks(text: str, location: str) -> tuple[int, ...]:
    blocks: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if match is None:
            raise ValueError(
                f"location: {quoted(location)} has a block list that cannot be read; write 3, 0-5 or 0,2,7."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(
                f"location: {quoted(location)} has the range {part} that runs backwards; write {last}-{first}."
            )
        blocks.extend(range(first, last + 1))
    return tuple(dict.fromkeys(blocks))
