"""python -m lab.demo: finds the features of a prompt against a baseline, steers with them, shows the pictures.

Inside the small FLUX, in its text stream and in its picture's stream; and before the generator, on the embedding that
the small Kandinsky draws.
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

from sae.demo.shapes import Prompt, held_out_prompts, parse_prompt
from sae.demo.shipped_weights import TEXT_SAE, load_attention_set, load_decoder, load_sae, load_transformer
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.sae_set import saes_of
from sae.drawing.sheet import contact_sheet
from sae.finding.features import RankedFeature, feature_list, feature_table
from sae.places.site import resolve_site
from sae.steering.delta import Steering
from sae.steering.intervention import Intervention

from .judge.reader import measure_pictures
from .judge.score import kept_attributes
from .judge.steer import contrast, draw_steered, tally_prompt
from .kandinsky.chain import Chain
from .kandinsky.embed_evidence import EmbedDemo
from .kandinsky.settings import OTHER_CONTEXTS

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

UNSTEERED = "unsteered"
TEXT, SET = "text stream", "picture's stream"
# Columns of the FLUX's sheet: stream, strength of swap at each of its places, whether it is the random control.
COLUMNS = (
    *((TEXT, strength, False) for strength in (0.5, 1.0)),
    (TEXT, 1.0, True),
    *((SET, strength, False) for strength in (0.75, 1.25)),
    (SET, 1.25, True),
)
EMBED_STRENGTHS = (0.5, 0.75, 1.0, 1.25)
FIND_SEEDS = range(4)
RANDOM_SEED = 0
COLUMN_WIDTH = 128  # pixels on the sheet, so that captions have room


@dataclass(frozen=True)
class Found:
    """An SAE with the features of the prompt against the baseline, and the reverse."""

    sae: SparseAutoencoder
    gained: Sequence[RankedFeature]
    lost: Sequence[RankedFeature]

    def swap(self, strength: float) -> Intervention:
        steering = Steering(self.sae, feature_list(self.gained), "swap", strength, replaces=feature_list(self.lost))
        return Intervention(steering, resolve_site("auto", "auto", self.sae.site))


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
    """Caption -> pictures of the FLUX, all from prompts that training never saw and with the same seeds."""
    transformer, decoder = load_transformer(), load_decoder()
    saes = {TEXT: [load_sae(TEXT_SAE)], SET: saes_of(load_attention_set())}
    print(f"Shapes is a FLUX with {sum(p.numel() for p in transformer.parameters()) / 1e6:.1f} million parameters.")
    print(f"The SAE of its text stream: {saes[TEXT][0]}")
    print(f"The SAEs of its picture's stream: {len(saes[SET])}, one for each attention's output.")
    found = {stream: _find(given, transformer, group) for stream, group in saes.items()}
    for stream, (first, *more) in found.items():
        _print_contrast(
            given, first, f"{stream}, {first.sae.site}" + (f" (and {len(more)} further places)" if more else "")
        )
    seeds = range(100, 100 + len(prompts))
    columns = {}
    for stream, strength, random in tqdm([(TEXT, 0.0, False), *COLUMNS], desc="Drawing"):
        steering = [one.swap(strength) for one in found[stream]]
        latents, _ = draw_steered(transformer, prompts, seeds, steering, RANDOM_SEED if random else None)
        with torch.no_grad():
            columns[_caption(stream, strength, random)] = decoder(latents)
    return columns


def _caption(stream: str, strength: float, random: bool) -> str:
    if strength == 0:
        return UNSTEERED
    return f"{stream}\n" + (f"random, as {strength:g}" if random else f"swap {strength:g}")


def _find(
    given: argparse.Namespace, transformer: FluxTransformer2DModel, saes: Sequence[SparseAutoencoder]
) -> list[Found]:
    found = []
    for sae in tqdm(saes, desc="Finding features"):
        here, there = (tally_prompt(transformer, sae, side, FIND_SEEDS) for side in (given.prompt, given.baseline))
        found.append(Found(sae, contrast(here, there, given.count), contrast(there, here, given.count)))
    return found


def _before(given: argparse.Namespace, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Caption -> pictures of the Kandinsky."""
    chain = Chain()
    print("A Kandinsky 2.2 as small: its decoder sees nothing but the embedding of a picture.")
    print(f"Its SAE {chain.sae}")
    here, there = (chain.tally(_in_contexts(side), FIND_SEEDS) for side in (given.prompt, given.baseline))
    found = Found(chain.sae, contrast(here, there, given.count), contrast(there, here, given.count))
    _print_contrast(given, found, f"the embedding, with {len(OTHER_CONTEXTS)} other shapes and places")
    demo = EmbedDemo.of(chain, found.gained, found.lost, prompts)
    runs = {UNSTEERED: (0.0, None)} | {f"steered\nstrength {s:g}": (s, None) for s in EMBED_STRENGTHS}
    runs["random direction\nsame size as 1"] = (1.0, RANDOM_SEED)
    return {caption: demo.draw(*run) for caption, run in tqdm(runs.items(), desc="Drawing")}


def _in_contexts(side: Prompt) -> list[Prompt]:
    """The prompt, and its colour on other shapes and places: what fires for all of them is the colour."""
    return [side, *(context.with_colour(side.colour) for context in OTHER_CONTEXTS)]


def _print_contrast(given: argparse.Namespace, found: Found, where: str) -> None:
    for rows, here, there in ((found.gained, given.prompt, given.baseline), (found.lost, given.baseline, given.prompt)):
        print(feature_table(rows, f"\n{where}: fire more for '{here}' than for '{there}':"))
    print()


def _tell(columns: dict[str, Tensor], target: str | None) -> None:
    before = measure_pictures(columns[UNSTEERED])
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
