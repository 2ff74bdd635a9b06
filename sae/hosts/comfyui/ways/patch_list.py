"""The list way: a function in `patches["double_block"]`, behind those that are there.

Each gets the streams of a joint sequence after every block and returns those that it changed; they are written back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from .placed import Placed, tap_image, tap_tokens

Patch = Callable[[dict[str, Any]], dict[str, Any]]


def after_blocks(placed: Mapping[int, Placed]) -> Patch:
    """The function of one tap; `placed` is it by the block's number."""

    @torch.compiler.disable
    def patched(given: dict[str, Any]) -> dict[str, Any]:
        here = placed.get(given["block_index"])
        if here is None:
            return {}
        here.enter()
        return _changed(here, given)

    return patched


def _changed(placed: Placed, given: dict[str, Any]) -> dict[str, Any]:
    image, text = given["img"], given["txt"]  # views of the sequence; the text's has the lead behind it
    moment = replace(placed.moment, text_tokens=text.shape[1] - placed.moment.lead)
    stream = placed.tap.site.stream
    if stream == "image":
        changed = tap_image(placed.tap, image, replace(moment, lead=0))
        return {} if changed is image else {"img": changed}
    if stream == "text":
        changed = tap_tokens(placed.tap, text, moment)
        return {} if changed is text else {"txt": changed}
    both = torch.cat([text, image], dim=1)
    changed = tap_tokens(placed.tap, both, moment)
    return {} if changed is both else {"txt": changed[:, : text.shape[1]], "img": changed[:, text.shape[1] :]}
