"""Trains the small Kandinsky part by part: python -m lab.kandinsky.train_parts PART --folder FOLDER.

clip and movq come first, then unet and prior; each part resumes from its checkpoint in the folder.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sae.demo.shapes import Prompt, training_prompts

from ..train.loop import fit
from .losses import ClipLoss, MovqLoss, Pool, PriorLoss, UnetLoss, drawings
from .models import PICTURE_SIDE, build_clip, build_movq, build_prior, build_unet, clip_pixels

if TYPE_CHECKING:
    from transformers import CLIPModel

log = logging.getLogger(__name__)

STEPS = {"clip": 3000, "movq": 1500, "unet": 3500, "prior": 4000}
RATES = {"clip": 1e-3, "movq": 2e-3, "unet": 1e-3, "prior": 1e-3}
DRAWINGS = 12  # of each training prompt in the pool
CHUNK = 256


def load_part(part: nn.Module, folder: Path, name: str) -> Any:
    part.load_state_dict(torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True))
    return part.eval().requires_grad_(False)


@torch.no_grad()
def embed_pictures(clip: CLIPModel, pictures: Tensor) -> Tensor:
    """Pictures (n, 3, 64, 64) in 0..1 to image embeddings (n, 64), not normalised."""
    vision = clip.vision_model(pixel_values=clip_pixels(pictures))
    return clip.visual_projection(vision.pooler_output)


@torch.no_grad()
def make_pool(folder: Path, prompts: list[Prompt], seed: int = 5) -> Pool:
    clip, movq = load_part(build_clip(), folder, "clip"), load_part(build_movq(), folder, "movq")
    generator = torch.Generator().manual_seed(seed)
    embeds, latents = [], []
    for first in range(0, len(prompts), CHUNK):
        pictures = drawings(prompts[first : first + CHUNK], generator)
        embeds.append(embed_pictures(clip, pictures))
        latents.append(movq.encode(pictures * 2 - 1).latents)
    # diffusers' "zero" picture is zeros after the image processor: grey here
    vision = clip.vision_model(pixel_values=torch.zeros(1, 3, PICTURE_SIDE, PICTURE_SIDE))
    return Pool(prompts, torch.cat(embeds), torch.cat(latents), clip.visual_projection(vision.pooler_output))


def train_part(part: str, folder: Path, steps: int, rate: float) -> dict[str, Tensor]:
    torch.manual_seed(0)
    checkpoint = folder / f"{part}_state.pt"
    if part == "clip":
        clip = build_clip()
        return fit(clip, ClipLoss(clip), steps, rate, checkpoint)
    if part == "movq":
        movq = build_movq()
        return fit(movq, MovqLoss(movq), steps, rate, checkpoint)
    pool = make_pool(folder, training_prompts() * DRAWINGS)
    if part == "unet":
        unet = build_unet()
        return fit(unet, UnetLoss(unet, pool), steps, rate, checkpoint)
    prior = build_prior()
    return fit(prior, PriorLoss(prior, load_part(build_clip(), folder, "clip"), pool), steps, rate, checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=STEPS)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and results go")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rate", type=float, help="highest learning rate")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given.folder.mkdir(parents=True, exist_ok=True)
    steps, rate = given.steps or STEPS[given.part], given.rate or RATES[given.part]
    torch.save(train_part(given.part, given.folder, steps, rate), given.folder / f"{given.part}.pt")


if __name__ == "__main__":
    main()
