"""Trains the judge on real drawings alone, and says how well it knows them again when they are a little changed:
python -m lab.emoji.train_judge --folder F."""

from __future__ import annotations

import argparse
import logging
import math
import random
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from .changed import changed
from .drawings import Drawing, load_drawings
from .judge import Judge, Verdict, decide, features_of, find_twins, thumbnails_of

log = logging.getLogger(__name__)

STEPS, RATE, WEIGHT_DECAY = 1_000, 3e-3, 0.05
BATCH, KIN = 128, 4  # pictures; of them so many of one name, in other skin tones
SHARPNESS = 16.0  # of the likeness, in the loss


def draw_batch(groups: list[list[int]], rng: random.Random) -> list[int]:
    """Numbers of drawings of one style: names that differ in the skin tone alone stand together."""
    chosen: list[int] = []
    while len(chosen) < BATCH:
        kin = rng.choice(groups)
        chosen += rng.sample(kin, min(KIN, len(kin), BATCH - len(chosen)))
    return list(dict.fromkeys(chosen))


def groups_by_style(drawings: list[Drawing]) -> list[list[list[int]]]:
    """For each style, for each name without its skin tone, the drawings' numbers."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, drawing in enumerate(drawings):
        found[drawing.style][drawing.base].append(number)
    return [list(names.values()) for names in found.values()]


def knows_again(judge: Judge, clean: Tensor, other: Tensor, twins: Tensor) -> Tensor:
    """Each changed picture should be most like its own clean one, of all in the batch; twins are both right."""
    likeness = SHARPNESS * judge(other) @ judge(clean).T
    same = (twins[:, None] == twins[None]).float()
    return functional.cross_entropy(likeness, same / same.sum(dim=1, keepdim=True))


def train_judge(thumbnails: Tensor, drawings: list[Drawing], twins: Tensor, steps: int = STEPS) -> Judge:
    """`thumbnails` (n, 3, 64, 64) of all drawings."""
    torch.manual_seed(0)
    judge, styles = Judge(), groups_by_style(drawings)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        rng, generator = random.Random(step), torch.Generator().manual_seed(step)
        chosen = draw_batch(rng.choice(styles), rng)
        clean = thumbnails[chosen]
        with torch.autocast("cpu", torch.bfloat16):
            loss = knows_again(judge, clean, changed(clean, generator), twins[chosen])
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.step()
        if (step + 1) % 50 == 0:
            log.info("step %d of %d, loss %.4f", step + 1, steps, loss.item())
    return judge.eval().requires_grad_(False)


def judge_real(judge: Judge, thumbnails: Tensor, drawings: list[Drawing], twins: Tensor, count: int = 2000) -> Verdict:
    """Real drawings, changed as in training but with draws of their own."""
    known = features_of(judge, thumbnails)
    wanted = random.Random(-1).sample(range(len(drawings)), count)
    generator = torch.Generator().manual_seed(10**6)
    seen = torch.cat([judge(changed(part, generator)) for part in thumbnails[wanted].split(250)])
    return decide(seen, wanted, known, drawings, twins)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of lab.emoji.drawings; gets judge.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    drawings, pixels = load_drawings(given.folder)
    thumbnails = thumbnails_of(pixels)
    twins = find_twins(thumbnails, [drawing.style for drawing in drawings])
    log.info("%d names share their picture with another", len(drawings) - len(twins.unique()))
    judge = train_judge(thumbnails, drawings, twins, given.steps)
    judge.save(given.folder / "judge.safetensors")
    torch.save(twins, given.folder / "twins.pt")
    log.info("real ones, changed: %s", judge_real(judge, thumbnails, drawings, twins))


if __name__ == "__main__":
    main()
