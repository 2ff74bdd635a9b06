"""Trains the Shapes transformer by flow matching, and the decoder for its latents; both resume from checkpoints."""

from __future__ import annotations

import argparse
import logging
import random
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from sae.demo.shapes import Prompt, draw, training_prompts
from sae.demo.shapes_model import (
    ShapesDecoder,
    build_transformer,
    embed_prompts,
    encode_pictures,
    forget_words,
    pack,
    predict,
)

from .loop import block_matrices, fit

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

log = logging.getLogger(__name__)

LOG_EVERY = 50
STEPS, RATE = 5_000, 1.5e-3


def noise_levels(count: int, generator: torch.Generator) -> torch.Tensor:
    """Sigmas (count,): logit-normal, a little towards noise, where shape and colour are decided."""
    return torch.sigmoid(0.1 + 1.5 * torch.randn(count, generator=generator))


def flow_loss(
    transformer: FluxTransformer2DModel, prompts: list[Prompt], rng: random.Random, generator: torch.Generator
) -> torch.Tensor:
    """Rectified flow: x_t = (1 - t) x_0 + t noise, the target is noise - x_0."""
    latents = encode_pictures(draw(prompts, generator)[0])
    noise = torch.randn(latents.shape, generator=generator)
    sigma = noise_levels(len(prompts), generator)
    weight = sigma.view(-1, 1, 1, 1)
    noisy = (1 - weight) * latents + weight * noise
    text = embed_prompts([forget_words(prompt, rng) for prompt in prompts])
    return functional.mse_loss(predict(transformer, pack(noisy), sigma, text), pack(noise - latents))


def train_transformer(
    folder: Path, steps: int, start: Path | None = None, rate: float = RATE, batch: int = 64
) -> dict[str, torch.Tensor]:
    """Returns the averaged weights. Carries on a checkpoint in `folder`; else starts from weights in `start`."""
    torch.manual_seed(0)
    transformer = build_transformer().train()
    if start is not None:
        transformer.load_state_dict(torch.load(start, map_location="cpu", weights_only=True))
    known = training_prompts()

    def loss_of(rng: random.Random, generator: torch.Generator) -> torch.Tensor:
        return flow_loss(transformer, rng.choices(known, k=batch), rng, generator)

    return fit(transformer, loss_of, steps, rate, folder / "transformer_state.pt", muon=block_matrices)


def train_decoder(steps: int, batch: int = 24, rate: float = 3e-3) -> ShapesDecoder:
    """Latents with a little noise, as sampling leaves it, to sharp pictures."""
    torch.manual_seed(0)
    decoder = ShapesDecoder().train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    generator, rng, known = torch.Generator().manual_seed(2), random.Random(2), training_prompts()
    for step in range(steps):
        pictures = draw(rng.choices(known, k=batch), generator)[0]
        latents = encode_pictures(pictures)
        latents = latents + 0.05 * torch.rand(batch, 1, 1, 1) * torch.randn(latents.shape, generator=generator)
        loss = functional.l1_loss(decoder(latents), pictures)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % LOG_EVERY == 0:
            log.info("decoder step %d of %d, mean error %.4f", step + 1, steps, loss.item())
    return decoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and results go")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--start", type=Path, help="weights to start from, such as the transformer.pt of another run")
    parser.add_argument("--rate", type=float, default=RATE, help="highest learning rate")
    parser.add_argument("--decoder-steps", type=int, default=800)
    parser.add_argument("--only", choices=("transformer", "decoder"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.only != "decoder":
        weights = train_transformer(given.folder, given.steps, given.start, given.rate)
        torch.save(weights, given.folder / "transformer.pt")
    if given.only != "transformer":
        torch.save(train_decoder(given.decoder_steps).state_dict(), given.folder / "decoder.pt")


if __name__ == "__main__":
    main()
