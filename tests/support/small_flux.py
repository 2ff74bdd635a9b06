"""A small random FLUX of diffusers, its inputs, and steering of it."""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from small_saes import small_sae

WIDTH, CHANNELS, TEXT_WIDTH, POOLED = 16, 4, 10, 6


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
