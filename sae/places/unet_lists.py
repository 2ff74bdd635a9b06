"""A UNet's places: lists of like modules, as diffusers and as ComfyUI call them.

A UNet has its transformers (`attentions`) at several heights, each with a token grid and a width of its own, and inside
each of them a list of `transformer_blocks`. The path of a list is the kind of its places: `down_blocks.2.attentions`,
`down_blocks.2.attentions.1.transformer_blocks`. ComfyUI's names of the same, `input_blocks.8` (whose module 1 is the
transformer) and `input_blocks.8.1.transformer_blocks`, are read too; which is which only the model knows.
"""

from __future__ import annotations

import re

ATTENTIONS, INSIDE = "attentions", "attentions.transformer_blocks"  # the two sorts of lists

_DIFFUSERS = r"(?:(?:down|up)_blocks\.[0-9]{1,2}|mid_block)\.attentions"
_COMFYUI = r"(?:(?:input|output)_blocks\.[0-9]{1,2}|middle_block)"
BLOCKS = ".transformer_blocks"
_IN_DIFFUSERS = rf"{_DIFFUSERS}(?:\.[0-9]{{1,2}}{re.escape(BLOCKS)})?"
LIST = rf"(?:{_IN_DIFFUSERS}|{_COMFYUI}(?:\.1{re.escape(BLOCKS)})?)"
# Inside a file or folder name, such as unet.down_blocks.2.attentions.1_k10_hidden5120; the last of several counts.
IN_NAME = re.compile(
    rf"(?<![a-z_])(?P<list>{_IN_DIFFUSERS})\.(?P<block>[0-9]{{1,2}})"
    r"(?:\.(?P<point>input|update|attn1|attn2|ff(?:\.transcoder)?))?(?:-image)?"
    r"(?![0-9a-z]|\.(?!(?:safetensors|pt|pth|bin|npz)\b)[a-z])"
)
_HALVES = {"down_blocks": 0, "input_blocks": 0, "mid_block": 1, "middle_block": 1, "up_blocks": 2, "output_blocks": 2}


def sort_of(kind: str) -> str:
    """ATTENTIONS or INSIDE for a list of a UNet; what is no such list is its own sort."""
    if kind.endswith(BLOCKS):
        return INSIDE
    return ATTENTIONS if re.fullmatch(LIST, kind) else kind


def is_in_comfyui(kind: str) -> bool:
    """Whether it is ComfyUI's name of a list."""
    return re.match(_COMFYUI, kind) is not None


def order_of(kind: str) -> tuple[int, ...]:
    """Sorts lists in the order in which a UNet runs them."""
    return (_HALVES[kind.split(".")[0]], *(int(number) for number in re.findall(r"[0-9]+", kind)))


def holder(kind: str) -> str:
    """The path of the transformer that holds a list of transformer blocks; empty for a list of another sort."""
    return kind.removesuffix(BLOCKS) if kind.endswith(BLOCKS) else ""
