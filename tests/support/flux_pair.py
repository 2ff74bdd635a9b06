"""One small random FLUX twice: as ComfyUI loads it and as diffusers builds it, with equal weights."""

from __future__ import annotations

import comfy.model_patcher
import comfy.patcher_extension
import comfy.sd
import torch
from diffusers import FluxTransformer2DModel

CONFIG = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 128,  # ComfyUI reads the number of heads as width / 128
    "num_attention_heads": 1,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 16,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}
WIDTH = 128


def make_transformer(seed: int = 0) -> FluxTransformer2DModel:
    """Random weights, larger than diffusers' own, so that every block has a say."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(**CONFIG).eval().requires_grad_(False)
    for parameter in transformer.parameters():
        if parameter.ndim == 2:
            parameter.mul_(1.5)
    return transformer


def make_model(transformer: FluxTransformer2DModel, dtype: torch.dtype | None = None):
    """A ComfyUI MODEL with the transformer's weights."""
    options = {} if dtype is None else {"dtype": dtype}
    weights = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    return comfy.sd.load_diffusion_model_state_dict(weights, model_options=options)


def inputs(batch: int = 1, height: int = 6, width: int = 8, text: int = 5, seed: int = 1):
    """Latent (batch, 16, height, width), sigma (batch,), text (batch, text, 64), pooled (batch, 16)."""
    random = torch.Generator().manual_seed(seed)
    latent = torch.randn(batch, 16, height, width, generator=random)
    context = torch.randn(batch, text, 64, generator=random)
    return latent, torch.full((batch,), 0.7), context, torch.randn(batch, 16, generator=random)


def comfy_velocity(model, latent, sigma, context, pooled, **options):
    """ComfyUI's prediction through the model's own wrappers, as its samplers call it."""
    model = model.clone()
    transformer_options = comfy.patcher_extension.copy_nested_dicts(model.model_options["transformer_options"])
    transformer_options["wrappers"] = comfy.patcher_extension.copy_nested_dicts(model.wrappers)
    transformer_options |= {"cond_or_uncond": [0], "sigmas": sigma[:1], **options}
    with torch.no_grad():
        denoised = model.model.apply_model(
            latent, sigma, c_crossattn=context, y=pooled, transformer_options=transformer_options
        )
    return (latent - denoised) / sigma.view(-1, 1, 1, 1)


def diffusers_velocity(transformer, latent, sigma, context, pooled):
    batch, channels, height, width = latent.shape
    tokens = latent.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    with torch.no_grad():
        out = transformer(
            hidden_states=tokens.reshape(batch, -1, 4 * channels),
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=sigma,
            img_ids=torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float(),
            txt_ids=torch.zeros(context.shape[1], 3),
        ).sample
    patches = out.view(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(latent.shape)
