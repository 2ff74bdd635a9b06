"""python -m sae.demo: finds the features of a Shapes prompt against a baseline, steers with them, shows the pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..edits import FeatureList
from ..features import feature_list, feature_table
from ..intervention import Intervention
from ..steering import Steering
from .files import TEXT_SAE, load_decoder, load_sae, load_transformer
from .reader import read_pictures
from .shapes import COLOURS, Prompt, held_out_prompts, parse_prompt
from .sheet import contact_sheet
from .steer import STEPS, contrast, draw_steered, tally_prompt

STRENGTHS = (0.5, 0.8, 1.0, 1.25)
PICTURES = 5
FEATURES = 6
FIND_SEEDS = range(4)
RANDOM_SEED = 0


def main() -> None:
    given = _arguments()
    transformer, decoder, sae = load_transformer(), load_decoder(), load_sae(TEXT_SAE)
    site = sae.at_site()
    positive, baseline = given.prompt, given.baseline
    print(f"Shapes: {sum(p.numel() for p in transformer.parameters()) / 1e6:.1f} M parameters. {sae}.\n")

    with _progress("finding features", 2 * STEPS) as advance:
        tallies = [tally_prompt(transformer, sae, p, FIND_SEEDS, on_step=advance) for p in (positive, baseline)]
    found, replaced = contrast(*tallies, FEATURES), contrast(*reversed(tallies), FEATURES)
    print(feature_table(found, f"\nMore for '{positive}' than for '{baseline}':"))
    print(feature_table(replaced, f"\nMore for '{baseline}' than for '{positive}':"))

    prompts = [p for p in held_out_prompts() if p.colour == baseline.colour][:: given.every][:PICTURES]
    seeds = range(100, 100 + len(prompts))
    columns = [f"swap\nstrength {strength:g}" for strength in STRENGTHS]
    names = ["unsteered", *columns, "random direction\nequal norm as 1"]
    sheets = []
    with _progress("drawing", STEPS * len(names)) as advance:

        def draw(strength: float, random_direction: int | None = None) -> Tensor:
            steering = Steering(sae, feature_list(found), "swap", strength, replaces=feature_list(replaced))
            interventions = [Intervention(steering, site)] if strength else []
            latents, _ = draw_steered(transformer, prompts, seeds, interventions, random_direction, advance)
            with torch.no_grad():
                return decoder(latents)

        sheets = [draw(0), *(draw(strength) for strength in STRENGTHS), draw(1.0, RANDOM_SEED)]
    _tell(names, sheets, prompts, positive.colour)
    _save(given.out, sheets, prompts, names, f"{baseline.colour}-to-{positive.colour}")


if __name__ == "__main__":
    main()
