"""How far an embedding can be moved before its picture is destroyed: python -m lab.kandinsky.limit.

For the record's warning. Moves along random directions, and along the difference between the embeddings of the
prompt with another colour and of the prompt itself (at 1 it is the other prompt's embedding).
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import torch
from torch import Tensor

from sae.demo.shapes import COLOURS, held_out_prompts

from ..judge.reader import Readings, measure_pictures
from ..judge.score import Score
from .chain import Chain

RATIOS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SEED = 3000


def move(embeds: Tensor, towards: Tensor, ratio: float) -> Tensor:
    """Embeddings (n, 64) moved by `ratio` of their own length along `towards` (n, 64)."""
    return embeds + ratio * embeds.norm(dim=-1, keepdim=True) * torch.nn.functional.normalize(towards, dim=-1)


def readable(readings: Readings) -> float:
    """Share of pictures on which place, size and background can be read."""
    whole = [None not in (one.place, one.size, one.background) for one in readings.prompts]
    return sum(whole) / len(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=36)
    count = parser.parse_args().pictures
    chain, seeds = Chain(), range(SEED, SEED + count)
    prompts = (held_out_prompts() * count)[:: max(1, len(held_out_prompts()) // count)][:count]
    following = dict(pairwise([*COLOURS, *COLOURS]))
    embeds, blank = chain.embed(prompts, seeds)
    worded, _ = chain.embed([prompt.with_colour(following[prompt.colour or "red"]) for prompt in prompts], seeds)
    before = measure_pictures(chain.draw(embeds, blank, seeds))
    random = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(7))
    natural = float(((worded - embeds).norm(dim=-1) / embeds.norm(dim=-1)).mean())
    print(f"{count} pictures; the other prompt's embedding is {natural:.2f} away on average")
    print(
        "| direction | ‖Δ‖/‖x‖ | readable | place, size, background kept | outline kept |\n|---|---|---|---|---|",
        flush=True,
    )
    for name, towards in (("random", random), ("another colour", worded - embeds)):
        for ratio in RATIOS:
            after, score = measure_pictures(chain.draw(move(embeds, towards, ratio), blank, seeds)), Score()
            score.add(before, after, "")
            kept = min(score.kept[slot] for slot in ("place", "size", "background"))
            shares = f"{readable(after):.0%} | {score.share(kept):.0%} | {score.share(score.kept['shape']):.0%}"
            print(f"| {name} | {ratio:g} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
