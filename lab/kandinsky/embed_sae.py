"""Trains the SAE of the small Kandinsky's embeddings: python -m lab.kandinsky.embed_sae --out FOLDER.

Embeddings come from the image encoder of the prior that ships with the pack. With --ship the SAE goes into the pack.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sae.demo.shapes import Prompt, held_out_prompts, training_prompts
from sae.demo.shipped_weights import EMBED_SAE, KANDINSKY_PRIOR, WEIGHTS
from sae.hosts.kandinsky import KandinskyHalf
from sae.training.card import evaluate
from sae.training.finished_sae import export_topk
from sae.training.topk import TopKConfig
from sae.training.trainer import TopKTrainer

from ..train.ship import ship_sae
from .losses import drawings
from .models import EMBED_WIDTH, clip_pixels

log = logging.getLogger(__name__)

DRAWINGS = 100  # of each training prompt
FRESH_DRAWINGS = 20  # of each held-out prompt, on which the SAE is measured
CHUNK = 256
BATCH = 1024


@torch.no_grad()
def draw_and_embed(encoder: nn.Module, prompts: Sequence[Prompt], seed: int) -> Tensor:
    """Embeddings (prompts, 64), not normalised, of one new drawing of each prompt."""
    generator = torch.Generator().manual_seed(seed)
    chunks = [prompts[first : first + CHUNK] for first in range(0, len(prompts), CHUNK)]
    return torch.cat([encoder(pixel_values=clip_pixels(drawings(chunk, generator))).image_embeds for chunk in chunks])


def train_sae(encoder: nn.Module, out: Path, config: TopKConfig) -> None:
    """Writes the SAE, its statistics and how well it fits drawings of held-out prompts to out/shapes-image_embeds."""
    embeds = draw_and_embed(encoder, training_prompts() * DRAWINGS, seed=5)
    fresh = draw_and_embed(encoder, held_out_prompts() * FRESH_DRAWINGS, seed=6)
    model = TopKTrainer(config).fit(_batches(embeds, config.batch_tokens))
    measured, statistics = evaluate(model, fresh.split(4096))
    folder = out / EMBED_SAE
    export_topk(model, folder, statistics)
    log.info("%s: %s", EMBED_SAE, measured)
    (folder / "evaluation.json").write_text(json.dumps(measured._asdict(), indent=2) + "\n", encoding="utf-8")


def _batches(embeds: Tensor, size: int) -> Iterator[Tensor]:
    """Shuffled anew on each pass; the rest that fills no batch waits for the next."""
    generator = torch.Generator().manual_seed(8)
    while True:
        rows = torch.randperm(len(embeds), generator=generator)
        for batch in rows[: len(rows) // size * size].split(size):
            yield embeds[batch]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the SAE's own")
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument("--ship", action="store_true", help="put it into the pack")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    encoder = KandinskyHalf(KANDINSKY_PRIOR, "prior").part("image_encoder")
    config = TopKConfig(EMBED_WIDTH, given.features, given.k, given.steps, BATCH, seed=given.seed)
    train_sae(encoder, given.out, config)
    if given.ship:
        ship_sae(given.out / EMBED_SAE, WEIGHTS / EMBED_SAE)


if __name__ == "__main__":
    main()
