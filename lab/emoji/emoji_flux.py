"""The emoji transformer, a small diffusers FLUX, and the table of word vectors that is trained with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

WORD_WIDTH, POOLED_WIDTH = 256, 16
TEXT_TOKENS = 8
GRID_SIDE = 8  # image tokens a side, 16 px each
CONFIG: dict[str, Any] = {
    "in_channels": 64,  # 16 latent channels, patches of 2×2
    "num_layers": 2,
    "num_single_layers": 5,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "joint_attention_dim": WORD_WIDTH,
    "pooled_projection_dim": POOLED_WIDTH,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}


def build_transformer() -> FluxTransformer2DModel:
    """With fresh weights, of which each block does nothing yet (adaLN-Zero, Peebles and Xie 2023)."""
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(**CONFIG)
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (".norm" in name or name.startswith("norm_out") or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


class EmojiModel(nn.Module):
    """Words and a noisy picture to a velocity. Row 0 of `words` stands for "nothing said"."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.words = nn.Parameter(torch.randn(1 + words, WORD_WIDTH))

    def forward(self, tokens: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        """The velocity (batch, 64, 64) at noisy tokens (batch, 64, 64), sigma (batch,) in 0..1, rows (batch, 8)."""
        return predict(self.transformer, tokens, sigma, self.words[rows])


def position_ids() -> Tensor:
    """FLUX's image position ids (64, 3): 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(GRID_SIDE), torch.arange(GRID_SIDE), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def predict(transformer: FluxTransformer2DModel, tokens: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
    """The velocity (batch, 64, 64) for noisy tokens at sigma (batch,) in 0..1, told text (batch, words, 256)."""
    return transformer(
        hidden_states=tokens,
        encoder_hidden_states=text,
        pooled_projections=tokens.new_zeros(tokens.shape[0], POOLED_WIDTH),
        timestep=sigma,
        img_ids=position_ids(),
        txt_ids=torch.zeros(text.shape[1], 3),
        return_dict=False,
    )[0]
