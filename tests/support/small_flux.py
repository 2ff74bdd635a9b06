"""A small random FLUX of diffusers, its inputs, and steering of it: by the library, and by plain forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from sae.places.site import Site, parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from small_saes import dense_directions, small_sae

WIDTH, CHANNELS, TEXT_WIDTH, POOLED = 16, 4, 10, 6
DIRECTION = dense_directions("relu", WIDTH)[7]
Change = Callable[[Tensor, Tensor | None], Tensor]


def small_flux() -> nn.Module:
    """With every parameter away from zero, so that everything matters: no gate is shut."""
    torch.manual_seed(7)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=CHANNELS,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED,
        axes_dims_rope=(2, 2, 4),
    )
    for parameter in transformer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return transformer.eval().requires_grad_(False)


def inputs(batch: int = 1, text: int = 5, rows: int = 3, columns: int = 4, reference: int = 0) -> dict[str, Tensor]:
    """Inputs of the transformer; `reference` rows of Kontext tokens, counted from 1, follow the main picture."""
    random = torch.Generator().manual_seed(batch + 10 * text + rows)
    grid = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    if reference:
        grid = torch.cat([grid, torch.cartesian_prod(torch.ones(1), torch.arange(reference + 0.0), torch.arange(9.0))])
    return {
        "hidden_states": torch.randn((batch, len(grid), CHANNELS), generator=random),
        "encoder_hidden_states": torch.randn((batch, text, TEXT_WIDTH), generator=random),
        "pooled_projections": torch.randn((batch, POOLED), generator=random),
        "timestep": torch.full((batch,), 0.75),
        "img_ids": grid.float(),
        "txt_ids": torch.zeros(text, 3),
    }


def predict(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    return model(**given, return_dict=False)[0]


def adding(location: str, stream: str = "auto", strength: float = 1.5, method: str = "add", **given) -> Intervention:
    steering = Steering(small_sae("relu", WIDTH), [Edit(7, strength)], method, unit="raw")  # type: ignore[arg-type]
    return Intervention(steering, parse_location(location, stream), **given)


def hook_count(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def add_delta(x: Tensor, before: Tensor | None) -> Tensor:
    return x + 1.5 * DIRECTION


def change_slice(tensor: Tensor, start: int, end: int, change: Change, before: Tensor | None = None) -> Tensor:
    out = tensor.clone()
    out[:, start:end] = change(tensor[:, start:end], None if before is None else before[:, start:end])
    return out


@contextmanager
def plain_hooks(
    model: nn.Module, site: Site, change: Change = add_delta, text: int = 5, image: int = 12
) -> Iterator[None]:
    """`change` on the right tuple index and slice of each module of the site, by nothing but plain hooks."""
    start, end = {"text": (0, text), "image": (text, text + image), "joint": (0, text + image)}[site.stream]

    def double_block(module, args, kwargs, output):
        before = {"text": kwargs["encoder_hidden_states"], "image": kwargs["hidden_states"]}[site.stream]
        place, length = (0, text) if site.stream == "text" else (1, image)
        out = list(output)
        out[place] = change_slice(output[place], 0, length, change, before)
        return tuple(out)

    def double_attention(module, args, kwargs, output):
        first, second = output
        if site.stream == "image":
            return change_slice(first, 0, image, change), second
        return first, change_slice(second, 0, text, change)

    def feed_forward(module, args, kwargs, output):
        return change_slice(output, 0, image if site.stream == "image" else text, change)

    def single_block(module, args, kwargs, output):
        before = torch.cat([kwargs["encoder_hidden_states"], kwargs["hidden_states"]], 1)
        joined = change_slice(torch.cat(output, 1), start, end, change, before)
        return joined[:, :text], joined[:, text:]

    def single_attention(module, args, kwargs, output):
        return change_slice(output, start, end, change)

    def given_to_block(module, args, kwargs):
        joined = torch.cat([kwargs["encoder_hidden_states"], kwargs["hidden_states"]], 1)
        length = kwargs["encoder_hidden_states"].shape[1]
        joined = change_slice(joined, start, end, change)
        return args, {**kwargs, "encoder_hidden_states": joined[:, :length], "hidden_states": joined[:, length:]}

    handles = []
    for block in site.blocks:
        stack = model.transformer_blocks if site.kind == "double" else model.single_transformer_blocks
        module, block_hook = stack[block], double_block if site.kind == "double" else single_block
        if site.point == "attn":
            module, block_hook = module.attn, double_attention if site.kind == "double" else single_attention
        if site.point == "mlp":
            module, block_hook = module.ff if site.stream == "image" else module.ff_context, feed_forward
        if site.point == "input":
            handles.append(module.register_forward_pre_hook(given_to_block, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(block_hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
