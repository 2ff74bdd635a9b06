"""Collects the Shapes transformer's activations at several sites in one go, as half-precision tokens."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae.demo.shapes import Prompt, draw, training_prompts
from sae.demo.shapes_model import embed_prompts, encode_pictures, forget_words, pack, predict, sample
from sae.hosts.diffusers import capture
from sae.places.moment import Moment
from sae.places.site import Site

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

log = logging.getLogger(__name__)

PICTURES = 64  # in one call of the transformer
SAMPLING_STEPS = 8
DRAWING_CALLS = 4  # calls on noised drawings after each sampling of SAMPLING_STEPS calls
# Share of a call's tokens that is kept, so that the same room holds more prompts and seeds; text is short.
KEPT_SHARE = {"image": 0.25, "text": 1.0, "joint": 0.25}


class TokenStore:
    """Room for `tokens` tokens of one site; more are left out. Takes a random part of every call."""

    def __init__(self, tokens: int, share: float, seed: int) -> None:
        self.tokens = tokens
        self.share = share
        self.kept = 0
        self.generator = torch.Generator().manual_seed(seed)
        self._rows: Tensor | None = None  # (tokens, width) float16, made when the width is known

    @property
    def full(self) -> bool:
        return self.kept == self.tokens

    @property
    def rows(self) -> Tensor:
        """(kept, width) float16."""
        return torch.empty(0, 0) if self._rows is None else self._rows[: self.kept]

    def see(self, x: Tensor, moment: Moment) -> None:
        """Takes tokens x (batch, tokens, width)."""
        flat = x.flatten(0, 1)
        if self._rows is None:
            self._rows = torch.empty(self.tokens, flat.shape[1], dtype=torch.float16)
        count = min(round(len(flat) * self.share), self.tokens - self.kept)
        chosen = torch.randperm(len(flat), generator=self.generator)[:count]
        self._rows[self.kept : self.kept + count] = flat[chosen].half()
        self.kept += count


def collect_tokens(
    transformer: FluxTransformer2DModel, sites: Mapping[str, Site], tokens: int, seed: int
) -> dict[str, Tensor]:
    """`tokens` tokens (tokens, width) float16 for each named site, from training prompts.

    Two thirds come from sampling by Euler steps, as users do; one third from noised drawings at every noise level. The
    prompts forget words as in the model's training. Runs with different seeds share no starting noise.
    """
    stores = {name: TokenStore(tokens, KEPT_SHARE[site.stream], seed) for name, site in sites.items()}
    with ExitStack() as stack:
        for name, site in sites.items():
            stack.enter_context(capture(transformer, site, stores[name].see))
        for _ in _calls(transformer, seed):
            if all(store.full for store in stores.values()):
                break
    log.info("collected %d tokens at each of %d sites", tokens, len(sites))
    return {name: store.rows for name, store in stores.items()}


def _calls(transformer: FluxTransformer2DModel, seed: int) -> Iterator[None]:
    """Runs the transformer without end: one sampling, then calls on noised drawings; yields after each."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    first = seed * 1_000_000  # of the starting noises
    while True:
        seeds = range(first, first + PICTURES)
        first += PICTURES
        prompts = [forget_words(prompt, rng) for prompt in _prompts(rng)]
        sample(transformer, prompts, seeds, SAMPLING_STEPS)
        yield
        for _ in range(DRAWING_CALLS):
            _see_drawings(transformer, rng, generator)
            yield


def _prompts(rng: random.Random) -> list[Prompt]:
    return rng.choices(training_prompts(), k=PICTURES)


@torch.no_grad()
def _see_drawings(transformer: FluxTransformer2DModel, rng: random.Random, generator: torch.Generator) -> None:
    """Runs the transformer on drawings at noise levels from all of 0..1."""
    prompts = _prompts(rng)
    latents = encode_pictures(draw(prompts, generator)[0])
    sigma = torch.rand(len(prompts), generator=generator)
    weight = sigma.view(-1, 1, 1, 1)
    noisy = (1 - weight) * latents + weight * torch.randn(latents.shape, generator=generator)
    predict(transformer, pack(noisy), sigma, embed_prompts([forget_words(prompt, rng) for prompt in prompts]))
