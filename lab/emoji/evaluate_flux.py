"""Draws held-out names and asks the judge which they are: python -m lab.emoji.evaluate_flux --folder F."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from .decoder import load_decoder
from .drawings import Drawing, load_drawings
from .emoji_flux import EmojiModel
from .judge import SIDE, Judge, Verdict, decide, features_of, thumbnails_of
from .prompts import Words, full_prompt
from .sample import GUIDANCE, STEPS, load_model, sample

BATCH = 50


class Court:
    """The judge with all real drawings before it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is that of lab.emoji.drawings, in which lab.emoji.train_judge has left the judge."""
        self.drawings, pixels = load_drawings(folder)
        self.judge = Judge.load(folder / "judge.safetensors")
        self.twins: Tensor = torch.load(folder / "twins.pt", weights_only=True)
        self.known = features_of(self.judge, thumbnails_of(pixels))

    def decide(self, pictures: Tensor, wanted: list[int]) -> Verdict:
        """On pictures (n, 3, 128, 128) in 0..1 of the drawings numbered `wanted`."""
        thumbnails = functional.avg_pool2d(pictures, pictures.shape[2] // SIDE)
        return decide(features_of(self.judge, thumbnails), wanted, self.known, self.drawings, self.twins)


def draw_names(
    model: EmojiModel,
    words: Words,
    decoder: Callable[[Tensor], Tensor],
    asked: list[Drawing],
    steps: int,
    guidance: float,
) -> Tensor:
    """Pictures (n, 3, 128, 128) in 0..1 of full prompts, seed n for drawing n."""
    pictures = []
    for first in tqdm(range(0, len(asked), BATCH), desc="Drawing"):
        part = asked[first : first + BATCH]
        rows = torch.tensor([words.row_of(full_prompt(drawing)) for drawing in part])
        tokens = sample(model, rows, range(first, first + len(part)), steps, guidance, autocast=True)
        with torch.no_grad():
            pictures.append(decoder(tokens).clamp(0, 1))
    return torch.cat(pictures)


def choose(drawings: list[Drawing], count: int, seen: bool) -> dict[str, list[int]]:
    """Numbers of held-out drawings (of seen ones, if `seen`), those without a skin tone and those with one."""
    numbers = [number for number, drawing in enumerate(drawings) if drawing.held_out != seen]
    random.Random(0).shuffle(numbers)
    plain = [number for number in numbers if drawings[number].tone is None]
    toned = [number for number in numbers if drawings[number].tone is not None]
    return {"without skin tone": plain[: count // 2], "with skin tone": toned[: count // 2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the run's")
    parser.add_argument("--drawings", type=Path, help="folder of lab.emoji.drawings; the run's parent unless given")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seen", action="store_true", help="names that training sees, instead of held-out ones")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    court = Court(given.drawings or given.folder.parent)
    model, words = load_model(given.folder / "average.safetensors"), Words.load(given.folder / "words.json")
    decoder = load_decoder(given.folder)
    chosen = choose(court.drawings, given.count, given.seen)
    everything = [number for numbers in chosen.values() for number in numbers]
    asked = [court.drawings[number] for number in everything]
    pictures = draw_names(model, words, decoder, asked, given.steps, given.guidance)
    first = 0
    for kind, numbers in chosen.items():
        print(f"{kind}: {court.decide(pictures[first : first + len(numbers)], numbers)}")
        first += len(numbers)
    print(f"all: {court.decide(pictures, everything)}")


if __name__ == "__main__":
    main()
