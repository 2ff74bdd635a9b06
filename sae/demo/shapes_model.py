"""The Shapes transformer: a very small diffusers FLUX, its word embeddings, its sampler and its latents.

The encoder of latents is fixed: it averages the 128 px picture to 32 px and folds 2×2 pixels into channels, 12 of the
16 that FLUX has, the last four stay zero. One latent cell covers 8 px, as in every FLUX autoencoder. The decoder is
small and trained.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from .shapes import SLOTS, WORDS, Prompt, draw, held_out_prompts, training_prompts

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

TEXT_WIDTH, POOLED_WIDTH = 64, 16
CONFIG: dict[str, Any] = {
    "in_channels": 64,  # 16 latent channels, patches of 2×2
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 128,
    "num_attention_heads": 1,
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": POOLED_WIDTH,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}
TEXT_TOKENS = len(SLOTS)
LATENT_SIDE = 16
GRID_SIDE = LATENT_SIDE // 2  # image tokens a side
WORD_SEED = 20


def word_vectors() -> torch.Tensor:
    """Fixed embeddings (1 + words, 64): orthogonal rows of norm 8 (unit variance); row 0 says "not given"."""
    generator = torch.Generator().manual_seed(WORD_SEED)
    square = torch.randn(TEXT_WIDTH, TEXT_WIDTH, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(square)
    return (basis[: 1 + len(WORDS)] * TEXT_WIDTH**0.5).float()


def embed_prompts(prompts: Sequence[Prompt]) -> torch.Tensor:
    """Text tokens (batch, 5, 64), one a slot."""
    rows = [[0 if word is None else 1 + WORDS.index(word) for word in prompt.words] for prompt in prompts]
    return word_vectors()[torch.tensor(rows)]


def build_transformer() -> FluxTransformer2DModel:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(**CONFIG)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Latents (batch, 16, h, w), h and w even, to tokens (batch, h/2 · w/2, 64), row-major."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height // 2 * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int = LATENT_SIDE, width: int = LATENT_SIDE) -> torch.Tensor:
    """The inverse of pack: (batch, height/2 · width/2, 64) to (batch, 16, height, width)."""
    batch, _, channels = tokens.shape
    patches = tokens.view(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, channels // 4, height, width)


def position_ids(height: int = GRID_SIDE, width: int = GRID_SIDE) -> torch.Tensor:
    """FLUX's image position ids (height · width, 3): 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def predict(
    transformer: FluxTransformer2DModel, tokens: torch.Tensor, sigma: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """The velocity (batch, tokens, 64) for noisy tokens at sigma (batch,) in 0..1."""
    return transformer(
        hidden_states=tokens,
        encoder_hidden_states=text,
        pooled_projections=tokens.new_zeros(tokens.shape[0], POOLED_WIDTH),
        timestep=sigma,
        img_ids=position_ids().to(tokens.device),
        txt_ids=torch.zeros(text.shape[1], 3, device=tokens.device),
    ).sample


def noise_for(seeds: Sequence[int]) -> torch.Tensor:
    """Starting latents (batch, 16, 16, 16), each from its own seed, so that a batch does not change a picture."""
    shape = (16, LATENT_SIDE, LATENT_SIDE)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    transformer: FluxTransformer2DModel,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    steps: int = 8,
    on_step: Callable[[float], None] | None = None,
) -> torch.Tensor:
    """Draws latents (batch, 16, 16, 16) by Euler steps from sigma 1 to 0; `on_step` hears each sigma beforehand."""
    text = embed_prompts(prompts)
    tokens = pack(noise_for(seeds))
    sigmas = torch.linspace(1, 0, steps + 1)
    for now, after in pairwise(sigmas):
        if on_step is not None:
            on_step(float(now))
        velocity = predict(transformer, tokens, now.expand(len(prompts)), text)
        tokens = tokens + (after - now) * velocity
    return unpack(tokens)


WORD_DROPOUT = 0.1  # so that any slot may be left open
PROMPT_DROPOUT = 0.05  # so that the empty prompt works as the negative one
PICTURES = 64  # in one call of the transformer
SAMPLING_STEPS = 8
DRAWING_CALLS = 4  # noise levels of a run on noised drawings, one from each part of 0..1
SAMPLINGS = 2  # of three runs; the third is on drawings


def forget_words(prompt: Prompt, rng: random.Random) -> Prompt:
    if rng.random() < PROMPT_DROPOUT:
        return Prompt()
    return replace(prompt, **{slot: None for slot in SLOTS if rng.random() < WORD_DROPOUT})


def run_shapes(transformer: FluxTransformer2DModel, number: int, seed: int, pictures: int = PICTURES) -> Sequence[int]:
    """Run `number` of a seed: a sampling by Euler steps as users do it, or drawings at evenly spread noise levels.

    Returns the numbers of the prompts among `training_prompts()`, one for each row of the batch. Words are forgotten as
    in the model's training.
    """
    mixed = seed * 1_000_003 + number
    rng = random.Random(mixed)
    known = training_prompts()
    numbers = [rng.randrange(len(known)) for _ in range(pictures)]
    prompts = [forget_words(known[n], rng) for n in numbers]
    if number % (SAMPLINGS + 1) < SAMPLINGS:
        first = mixed * pictures  # of the starting noises: no two runs share one
        sample(transformer, prompts, range(first, first + pictures), SAMPLING_STEPS)
    else:
        _see_drawings(transformer, [known[n] for n in numbers], prompts, torch.Generator().manual_seed(mixed))
    return numbers


@torch.no_grad()
def predict_held_out(transformer: FluxTransformer2DModel, count: int = 32, sigma: float = 0.9) -> torch.Tensor:
    """Velocities (count, tokens, 64) for prompts that training never sees, all from one noise at one level."""
    every = held_out_prompts()
    prompts = [every[place * len(every) // count] for place in range(count)]
    noise = pack(noise_for([0])).expand(count, -1, -1)
    return predict(transformer, noise, torch.full((count,), sigma), embed_prompts(prompts))


@torch.no_grad()
def _see_drawings(
    transformer: FluxTransformer2DModel, drawn: list[Prompt], told: list[Prompt], generator: torch.Generator
) -> None:
    latents, text = encode_pictures(draw(drawn, generator)[0]), embed_prompts(told)
    for part in range(DRAWING_CALLS):
        sigma = (part + float(torch.rand((), generator=generator))) / DRAWING_CALLS
        noisy = (1 - sigma) * latents + sigma * torch.randn(latents.shape, generator=generator)
        predict(transformer, pack(noisy), torch.full((len(told),), sigma), text)


LATENT_CHANNELS = 16
USED_CHANNELS = 12
PIXELS_PER_CELL = 8
THUMBNAIL_FACTOR = 4  # 128 px picture to 32 px


def encode_pictures(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (batch, 3, h, w) in 0..1, h and w multiples of 8, to latents (batch, 16, h/8, w/8) in -1..1."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] % 8 or pictures.shape[3] % 8:
        raise ValueError(
            f"pictures: the Shapes encoder takes (batch, 3, height, width) with sides that are multiples of 8, "
            f"but got {tuple(pictures.shape)}."
        )
    thumbnails = functional.avg_pool2d(pictures, THUMBNAIL_FACTOR) * 2 - 1
    folded = functional.pixel_unshuffle(thumbnails, 2)
    return functional.pad(folded, (0, 0, 0, 0, 0, LATENT_CHANNELS - USED_CHANNELS))


class ShapesDecoder(nn.Module):
    """Latents (batch, 16, h, w) to pictures (batch, 3, 8h, 8w) in 0..1: thumbnails, sharpened and enlarged."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width, 3 * THUMBNAIL_FACTOR**2, 3, padding=1, padding_mode="replicate"),
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        thumbnails = thumbnails_of(latents)
        enlarged = functional.interpolate(
            thumbnails, scale_factor=THUMBNAIL_FACTOR, mode="bilinear", align_corners=False
        )
        detail = functional.pixel_shuffle(self.layers(thumbnails), THUMBNAIL_FACTOR)
        return ((enlarged + detail + 1) / 2).clamp(0, 1)


def thumbnails_of(latents: torch.Tensor) -> torch.Tensor:
    """The 3-channel picture that latents (batch, 16, h, w) hold: (batch, 3, 2h, 2w) in -1..1."""
    return functional.pixel_shuffle(latents[:, :USED_CHANNELS], 2).clamp(-1, 1)
