"""python -m lab.demo: finds the features of a prompt against a baseline, steers with them, shows the pictures.

Twice: inside the small FLUX, and before the generator, on the embedding that the small Kandinsky draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from sae.demo.files import TEXT_SAE, load_decoder, load_sae, load_transformer
from sae.demo.shapes import Prompt, held_out_prompts, parse_prompt
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.drawing.sheet import contact_sheet
from sae.finding.features import FeatureTally, RankedFeature, feature_list, feature_table
from sae.places.site import resolve_site
from sae.steering.delta import Steering
from sae.steering.intervention import Intervention
from sae.steering.sweep import Cell, draw_cells, plan

from .judge.kept import kept_attributes
from .judge.reader import measure_pictures
from .judge.steer import STEPS, contrast, drawing_of, tally_prompt
from .kandinsky.chain import Chain
from .kandinsky.show import EmbedDemo

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from sae.demo.latents import ShapesDecoder

STRENGTHS = (0.5, 0.75, 1.0, 1.25)
FIND_SEEDS = range(4)
RANDOM_SEED = 0
COLUMN_WIDTH = 128  # pixels on the sheet, so that captions have room


@dataclass(frozen=True)
class Demo:
    """The model, and what is steered from and to."""

    transformer: FluxTransformer2DModel
    decoder: ShapesDecoder
    sae: SparseAutoencoder
    found: Sequence[RankedFeature]
    replaced: Sequence[RankedFeature]

    def steering(self, cell: Cell) -> Intervention:
        """All features at once, whatever the cell's own edit is."""
        swap = Steering(self.sae, feature_list(self.found), "swap", cell.strength, replaces=feature_list(self.replaced))
        return Intervention(swap, resolve_site("auto", "auto", self.sae.site))


def main() -> None:
    given = _arguments()
    prompts = [p for p in held_out_prompts() if p.colour == given.baseline.colour][:: given.every][: given.pictures]
    name = f"{given.baseline.colour}-to-{given.prompt.colour}"
    print("Inside FLUX\n-----------")
    inside = _inside(given, prompts)
    _tell(inside, given.prompt.colour)
    _save(inside, prompts, given.out, f"{name}.png")
    print("\nBefore the generator\n--------------------")
    before = _before(given, prompts)
    _tell(before, given.prompt.colour)
    _save(before, prompts, given.out, f"{name}-embedding.png")


def _inside(given: argparse.Namespace, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Caption -> pictures of the FLUX."""
    transformer, sae = load_transformer(), load_sae(TEXT_SAE)
    print(f"Shapes is a FLUX with {sum(p.numel() for p in transformer.parameters()) / 1e6:.1f} million parameters.")
    print(f"Its SAE {sae}")
    with tqdm(total=2 * STEPS, desc="Finding features") as bar:
        sides = (given.prompt, given.baseline)
        tallies = [tally_prompt(transformer, sae, side, FIND_SEEDS, on_step=lambda _: bar.update()) for side in sides]
    found, replaced = _contrasts(given, tallies)
    return _draw_columns(Demo(transformer, load_decoder(), sae, found, replaced), prompts)


def _before(given: argparse.Namespace, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Caption -> pictures of the Kandinsky."""
    chain = Chain()
    print("A Kandinsky 2.2 as small: its decoder sees nothing but the embedding of a picture.")
    print(f"Its SAE {chain.sae}")
    sides = (given.prompt, given.baseline)
    found, replaced = _contrasts(given, [chain.tally(side, FIND_SEEDS) for side in sides])
    demo = EmbedDemo.of(chain, found, replaced, prompts)
    runs = [(0.0, None), *((strength, None) for strength in STRENGTHS), (1.0, RANDOM_SEED)]
    return dict(zip(_captions(), [demo.draw(*run) for run in tqdm(runs, desc="Drawing")], strict=True))


def _contrasts(
    given: argparse.Namespace, tallies: Sequence[FeatureTally]
) -> tuple[list[RankedFeature], list[RankedFeature]]:
    """What fires more for the prompt than for the baseline, and the reverse; printed, too."""
    here, there = tallies
    found, replaced = contrast(here, there, given.count), contrast(there, here, given.count)
    print(feature_table(found, f"\nFire more for '{given.prompt}' than for '{given.baseline}':"))
    print(feature_table(replaced, f"\nFire more for '{given.baseline}' than for '{given.prompt}':"), end="\n\n")
    return found, replaced


def _draw_columns(demo: Demo, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Caption -> pictures, all from prompts that training never saw and with the same seeds."""
    cells = plan(feature_list(demo.found)[:1], STRENGTHS, random=False)
    cells.append(Cell(0, len(STRENGTHS), cells[0].edit, 1.0, random=True))
    draw = drawing_of(demo.transformer, prompts, range(100, 100 + len(prompts)), STEPS, demo.decoder)
    with tqdm(total=(1 + len(cells)) * STEPS, desc="Drawing") as bar:

        def on_progress(done: float, total: int, shown: object) -> None:
            bar.update(round(done * STEPS) - bar.n)

        drawn = [pictures for _, pictures in draw_cells(draw, cells, demo.steering, on_progress, RANDOM_SEED)]
    return dict(zip(_captions(), drawn, strict=True))


def _captions() -> list[str]:
    steered = [f"steered\nstrength {strength:g}" for strength in STRENGTHS]
    return ["unsteered", *steered, "random direction\nsame size as 1"]


def _tell(columns: dict[str, Tensor], target: str | None) -> None:
    before = measure_pictures(columns["unsteered"])
    print(f"\n{'':32} {target} now   shape, place, size, background as before")
    for name, pictures in columns.items():
        after = measure_pictures(pictures)
        changed = sum(picture.colour == target for picture in after.prompts)
        kept = sum(all(same.values()) for same in kept_attributes(before, after))
        print(f"{name.replace(chr(10), ', '):32} {changed:>2} of {len(pictures):<6} {kept:>2} of {len(pictures)}")


def _save(columns: dict[str, Tensor], prompts: Sequence[Prompt], folder: Path, name: str) -> None:
    pictures = torch.stack(list(columns.values()), dim=1)
    factor = max(1, COLUMN_WIDTH // pictures.shape[-1])
    rows = list(pictures.repeat_interleave(factor, -1).repeat_interleave(factor, -2))
    folder.mkdir(parents=True, exist_ok=True)
    captions = [str(prompt).replace(" ", "\n", 1) for prompt in prompts]
    contact_sheet(rows, captions, list(columns)).save(folder / name)
    print(f"\nThe pictures are in {folder / name}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", type=_prompt, default="blue square center big grey", help="steer to this")
    parser.add_argument("--baseline", type=_prompt, default="red square center big grey", help="steer from this")
    parser.add_argument("--count", type=int, default=8, help="features to take from each side at most")
    parser.add_argument("--pictures", type=int, default=5, help="rows of the contact sheet")
    parser.add_argument("--every", type=int, default=4, help="takes every so many of the held-out prompts")
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    given = parser.parse_args()
    if given.prompt.colour == given.baseline.colour:
        parser.error(f"--prompt and --baseline: both say {given.prompt.colour}; give two different colours.")
    return given


def _prompt(text: str) -> Prompt:
    try:
        prompt = parse_prompt(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if prompt.colour is None:
        raise argparse.ArgumentTypeError(f"'{text}' names no colour; give one, such as 'blue square'.")
    return prompt


if __name__ == "__main__":
    main()
