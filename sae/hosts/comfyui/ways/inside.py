"""Points inside a block: a forward hook on the module whose output, or input, is the site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from ....places.families import Inside
from ....places.moment import Moment
from .placed import Placed

Now = Callable[[Tensor], Moment]  # the moment, for a module's tokens


@contextmanager
def hooked_inside(placed: Placed, now: Now) -> Iterator[None]:
    """The hook, for the length of the `with` block, in which a block that is compiled by itself runs as it is written.

    What is compiled notices no hook that comes or goes.
    """
    handle = install_inside(placed, now)
    try:
        with as_written() if is_compiled(placed.block) else nullcontext():
            yield
    finally:
        handle.remove()


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile made it."""
    return type(module).__name__ == "OptimizedModule"


def as_written() -> AbstractContextManager[Any]:
    """Nothing runs compiled inside; torch before 2.6 has no way to say so."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


def install_inside(placed: Placed, now: Now) -> Any:
    """The hook's handle."""
    site = placed.tap.site
    if is_compiled(placed.block):
        placed.tap.reach.compiled(placed.tap.block)
    inside = placed.stack.module(site.point, site.stream)
    if inside is None:
        raise ValueError(f"location: {site.location} is no place in this model.")
    module: nn.Module = attrgetter(inside.path)(placed.block)
    if inside.columns:
        return module.register_forward_pre_hook(_change_columns(placed, inside, now))
    return module.register_forward_hook(_change_output(placed, now))


def _change_output(placed: Placed, now: Now) -> Callable[..., Tensor]:
    @torch.compiler.disable
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        before = inputs[0] if placed.tap.site.point == "transcoder" else None
        return placed.change(output, now(output), before)

    return hook


def _change_columns(placed: Placed, inside: Inside, now: Now) -> Callable[..., tuple[Tensor, ...]]:
    width: int = getattr(placed.block, inside.columns)

    @torch.compiler.disable
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        own, others = inputs[0][..., :width], inputs[0][..., width:]
        changed = placed.change(own, now(own))
        return inputs if changed is own else (torch.cat([changed, others], dim=-1), *inputs[1:])

    return hook
