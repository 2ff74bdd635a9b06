"""The hook way: forward hooks on a block, for the length of one call of the model.

For models that offer patches no place at a block, and for points that a model's patches do not reach. Of the block's
arguments the first, its tokens, may be changed; the others pass through as they are, those of newer versions too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ....places.moment import Moment
from ..memory import unrecorded
from .inside import install_inside
from .placed import Placed


def install(placed: Placed) -> list[Any]:
    """Handles of the hooks; whoever installs them removes them."""
    call = _BlockCall(placed)
    first = placed.block.register_forward_pre_hook(call.begin, with_kwargs=True)
    point = placed.tap.site.point
    if point == "input":
        return [first]
    with ExitStack() as undo:
        undo.callback(first.remove)  # where the second cannot be installed
        if point in ("block", "update"):
            second = placed.block.register_forward_hook(call.end)
        else:
            second = install_inside(placed, call.now)
        undo.pop_all()
    return [first, second]


class _BlockCall:
    """The call of the block under way: its input, and what its arguments say of the text."""

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self._options: Any = None
        self._before: Tensor | None = None
        self.begin: Callable[..., Any] = torch.compiler.disable(self._begin)
        self.end: Callable[..., Tensor] = torch.compiler.disable(self._end)

    def now(self, tokens: Tensor) -> Moment:
        return self.placed.now(tokens.shape[1], self._options)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """None, or the arguments with other tokens."""
        self.placed.enter()
        self._options = kwargs.get("transformer_options")
        point = self.placed.tap.site.point
        if point not in ("input", "update"):
            return None
        name = None if args else next(iter(kwargs))
        tokens: Tensor = args[0] if name is None else kwargs[name]
        if point == "update":
            with unrecorded():
                self._before = tokens.clone()
            return None
        changed = self.placed.change(tokens, self.now(tokens))
        return ((changed, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: changed})

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        before, self._before = self._before, None
        return self.placed.change(output, self.now(output), before)
