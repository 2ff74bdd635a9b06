"""A sheet of held-out prompts, each drawn by the model below the real drawing.

python -m lab.emoji.emoji_sheet --folder F
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .decoder import load_decoder
from .drawings import SIZE, Drawing, load_drawings
from .emoji_pictures import to_pixels
from .prompts import Words, full_prompt
from .sample import GUIDANCE, STEPS, load_model, sample

COLUMNS, LINE = 10, 12


def choose_held_out(drawings: list[Drawing], count: int, toned: float = 0.25, seed: int = 0) -> list[int]:
    """Numbers of held-out drawings, the same each time, a quarter of them with a skin tone."""
    rng = random.Random(seed)
    held_out = [number for number, drawing in enumerate(drawings) if drawing.held_out]
    with_tone = [number for number in held_out if drawings[number].tone]
    without = [number for number in held_out if not drawings[number].tone]
    some = round(count * toned)
    return rng.sample(without, count - some) + rng.sample(with_tone, some)


def make_sheet(rows: list[Tensor], titles: list[str]) -> Image.Image:
    """Each of `rows` holds pixels (titles, 128, 128, 3); COLUMNS titles a line."""
    lines = -(-len(titles) // COLUMNS)
    height = len(rows) * SIZE + LINE
    sheet = Image.new("RGB", (COLUMNS * SIZE, lines * height), "white")
    pen = ImageDraw.Draw(sheet)
    for place, title in enumerate(titles):
        left, top = place % COLUMNS * SIZE, place // COLUMNS * height
        pen.text((left + 1, top), title[:22], fill="black")
        for number, row in enumerate(rows):
            sheet.paste(Image.fromarray(row[place].numpy()), (left, top + LINE + number * SIZE))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the run's")
    parser.add_argument("--drawings", type=Path, help="folder of lab.emoji.drawings; the run's parent unless given")
    parser.add_argument("--out", type=Path, help="a PNG; sheet.png in the folder unless given")
    parser.add_argument("--prompts", nargs="*", help="these instead of held-out names")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seen", action="store_true", help="names that training sees, instead")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, words = load_model(given.folder / "average.safetensors"), Words.load(given.folder / "words.json")
    real = []
    if given.prompts:
        titles, rows = given.prompts, [words.read(prompt) for prompt in given.prompts]
    else:
        drawings, pixels = load_drawings(given.drawings or given.folder.parent)
        if given.seen:
            training = [number for number, drawing in enumerate(drawings) if not drawing.held_out]
            chosen = random.Random(0).sample(training, given.count)
        else:
            chosen = choose_held_out(drawings, given.count)
        rows = [words.row_of(full_prompt(drawings[number])) for number in chosen]
        titles = [f"{drawings[number].style[0]} {' '.join(drawings[number].words)}" for number in chosen]
        real = [pixels[chosen]]
    tokens = sample(model, torch.tensor(rows), range(len(rows)), given.steps, given.guidance, autocast=True)
    make_sheet([*real, to_pixels(load_decoder(given.folder)(tokens))], titles).save(
        given.out or given.folder / "sheet.png"
    )


if __name__ == "__main__":
    main()
