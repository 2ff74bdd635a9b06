"""What the Shapes transformer does while it is watched: samplings and calls on noised drawings, of training prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .latents import encode_pictures
from .model import embed_prompts, noise_for, pack, predict, sample
from .shapes import SLOTS, Prompt, draw, held_out_prompts, training_prompts

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

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
