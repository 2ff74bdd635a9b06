"""Draws prompts: Euler steps from noise, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .emoji_flux import TEXT_TOKENS, EmojiModel
from .latents import pack

STEPS, GUIDANCE = 12, 2.5
SHIFT = 3.0  # of the sigmas towards noise, as in training
LATENT = (16, 16, 16)


def load_model(path: Path) -> EmojiModel:
    """The averaged weights that lab.emoji.train_flux writes, in float32."""
    weights = {name: weight.float() for name, weight in load_file(path).items()}
    model = EmojiModel(len(weights["words"]) - 1)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def noise_for(seeds: Sequence[int]) -> Tensor:
    """Starting tokens (batch, 64, 64), each from its own seed, so that a batch does not change a picture."""
    return pack(torch.stack([torch.randn(LATENT, generator=torch.Generator().manual_seed(seed)) for seed in seeds]))


def sigmas_for(steps: int, shift: float = SHIFT) -> Tensor:
    """Sigmas (steps + 1,) from 1 to 0, at `shift` 1 in even steps (Esser et al. 2024, equation 23)."""
    even = torch.linspace(1, 0, steps + 1)
    return shift * even / (1 + (shift - 1) * even)


@torch.no_grad()
def sample(
    model: EmojiModel,
    rows: Tensor,
    seeds: Sequence[int],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    shift: float = SHIFT,
    autocast: bool = False,
) -> Tensor:
    """Tokens (batch, 64, 64) for rows of words (batch, 8); `guidance` 1 leaves the empty prompt out."""
    tokens = noise_for(seeds)
    nothing = torch.zeros(len(rows), TEXT_TOKENS, dtype=torch.long)
    for now, after in pairwise(sigmas_for(steps, shift)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if guidance == 1:
                velocity = model(tokens, now.expand(len(rows)), rows)
            else:
                both = model(tokens.repeat(2, 1, 1), now.expand(2 * len(rows)), torch.cat([rows, nothing]))
                wanted, empty = both.float().chunk(2)
                velocity = empty + guidance * (wanted - empty)
        tokens = tokens + (after - now) * velocity
    return tokens
