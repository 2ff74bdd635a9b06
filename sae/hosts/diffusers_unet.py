"""diffusers' UNets: where their transformers are, of which family they are, and forward hooks on their places.

Read off diffusers 0.42: a transformer (`Transformer2DModel`) gets and returns (batch, width, rows, columns), the latter
as the first of a tuple; inside, a block, its two attentions and its `ff` return (batch, tokens, width). In Kandinsky's
UNets an `Attention` stands in a transformer's place, which returns the map itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..places.depth import Attention, Depth
from ..places.moment import COND, Moment
from ..places.reach import CountedTap, Reach
from ..places.site import Point
from ..places.stream_taps import Tap, tap_image, tap_map
from ..places.unet_lists import holder

UNET = "UNet2DConditionModel"
STEPS = 1000  # time steps of the training, of which a call tells one; a noise level is their share here
_INSIDE: dict[Point, str] = {"attn": "attn1", "cross": "attn2", "mlp": "ff", "transcoder": "ff"}
_VECTOR = {2816: "SDXL", 2560: "SDXL Refiner"}  # width of pooled text and sizes together
_TEXT = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2"}


def is_unet(model: Any) -> bool:
    return isinstance(model, nn.Module) and any(found.__name__ == UNET for found in type(model).__mro__)


def family_name(unet: Any) -> str:
    """ValueError for a UNet of another kind, by what its config says of text and pictures."""
    config = unet.config
    if config.addition_embed_type == "image":
        return "Kandinsky 2.2"
    vector = config.projection_class_embeddings_input_dim if config.addition_embed_type == "text_time" else None
    name = _VECTOR.get(vector) if vector else _TEXT.get(config.cross_attention_dim)
    if name is None or config.class_embed_type == "timestep":
        raise ValueError(
            f"model: a UNet whose text is {config.cross_attention_dim} wide came, with "
            f"{config.addition_embed_type or 'no'} embedding beside it; steering knows those of Stable Diffusion 1 and "
            "2, SDXL, its refiner and Kandinsky 2.2."
        )
    return name


def depth_of_unet(unet: Any) -> Depth:
    return Depth(attentions=tuple(_attentions(unet)))


def _attentions(unet: Any) -> Iterator[Attention]:
    """In running order; ComfyUI counts residual blocks, and what makes the picture smaller, as input blocks."""
    number = 1
    for place, block in enumerate(unet.down_blocks):
        yield from _of(block, f"down_blocks.{place}", "input_blocks", number)
        number += len(block.resnets) + 1
    for place, attention in enumerate(getattr(unet.mid_block, "attentions", ())):
        yield _attention(attention, f"mid_block.attentions.{place}", "middle_block.1")
    number = 0
    for place, block in enumerate(unet.up_blocks):
        yield from _of(block, f"up_blocks.{place}", "output_blocks", number)
        number += len(block.resnets)


def _of(block: Any, path: str, comfyui: str, number: int) -> Iterator[Attention]:
    for place, attention in enumerate(getattr(block, "attentions", ())):
        yield _attention(attention, f"{path}.attentions.{place}", f"{comfyui}.{number + place}.1")


def _attention(module: Any, path: str, comfyui: str) -> Attention:
    width = getattr(module, "in_channels", None) or module.query_dim
    return Attention(path, comfyui, len(getattr(module, "transformer_blocks", ())), int(width))


@dataclass
class UnetCall:
    """The call of a UNet under way: what its arguments say of noise level and layout."""

    sides: tuple[int, ...]
    reaches: list[Reach]
    moment: Moment = field(default_factory=lambda: Moment(0.0, (COND,), 0, 0, 0))

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs
        latent, text = given["sample"], given.get("encoder_hidden_states")
        sigma = float(torch.as_tensor(given["timestep"]).flatten()[0]) / STEPS
        self.moment = Moment(sigma, self.sides, 0 if text is None else text.shape[1], *latent.shape[-2:])

    def end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for reach in self.reaches:
            reach.call()

    def install(self, unet: nn.Module, tap: CountedTap) -> list[Any]:
        """Handles of the hooks of one block."""
        site = tap.site
        module = unet.get_submodule(f"{site.kind}.{tap.block}")
        hooks = [module.register_forward_pre_hook(lambda module, args: tap.enter(self.moment.sigma))]
        grid: list[tuple[int, int]] = []
        if holder(site.kind):
            around = unet.get_submodule(holder(site.kind))
            hooks.append(around.register_forward_pre_hook(_keep_grid(grid), with_kwargs=True))
        if site.point in _INSIDE:
            inside: nn.Module = getattr(module, _INSIDE[site.point])
            return [*hooks, inside.register_forward_hook(self._change(tap, grid, []))]
        if site.point == "input":
            return [*hooks, module.register_forward_pre_hook(self._change_input(tap, grid), with_kwargs=True)]
        before: list[Tensor] = []
        if site.point == "update":
            hooks.append(module.register_forward_pre_hook(_keep_input(before), with_kwargs=True))
        return [*hooks, module.register_forward_hook(self._change(tap, grid, before))]

    def _change(self, tap: Tap, grid: list[tuple[int, int]], kept: list[Tensor]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            x, more = (output, None) if isinstance(output, Tensor) else (output[0], output[1:])
            before = kept.pop() if kept else args[0] if tap.site.point == "transcoder" else None
            changed = self._tapped(tap, x, grid, before)
            return changed if more is None else (changed, *more)

        return hook

    def _change_input(self, tap: Tap, grid: list[tuple[int, int]]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            changed = self._tapped(tap, _hidden_states(args, kwargs), grid, None)
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

        return hook

    def _tapped(self, tap: Tap, x: Tensor, grid: list[tuple[int, int]], before: Tensor | None) -> Tensor:
        if x.ndim == 4:
            return tap_map(tap, x, self.moment, before)
        return tap_image(tap, x, replace(self.moment, own_grid=grid[-1]), before)


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found


def _keep_grid(grid: list[tuple[int, int]]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, columns = _hidden_states(args, kwargs).shape[-2:]
        grid[:] = [(rows, columns)]

    return hook


def _keep_input(kept: list[Tensor]) -> Callable[..., None]:
    """A clone, for a block may write in place."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept[:] = [_hidden_states(args, kwargs).clone()]

    return hook
