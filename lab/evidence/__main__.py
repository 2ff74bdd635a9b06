"""python -m lab.evidence: measures steering on the Shapes model against its controls; writes docs/evidence.md.

Features come from TopActivatingFeatures' way of finding them, with one prompt of each colour against one of another
colour as baseline, and from nothing else. Pictures are judged by rule (reader.py), prompts are held out.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sae.demo.files import ATTENTION_SAE, IMAGE_SAE, SAE_NAMES, TEXT_SAE, load_decoder, load_sae, load_transformer
from sae.demo.model import sample
from sae.demo.shapes import COLOURS, Prompt, held_out_prompts
from sae.finding.features import FeatureTally

from ..judge.kept import KEPT
from ..judge.reader import Readings, measure_pictures
from ..judge.score import Score
from ..judge.steer import STEPS, draw_steered, tally_prompt
from ..kandinsky.evidence import EmbedEvidence, EmbedMeasurement
from .calibrate import Bench, Effects
from .heat import Heat, measure_heat
from .name_features import Names, measure_names
from .report import write_report
from .settings import BEST, SETTINGS, Case

FINDING = Prompt("red", "square", "center", "big", "grey")  # with each colour in turn
FINDING_SEEDS = range(4)
FIRST_SEED = 1000
RANDOM_SEED = 7


@dataclass
class Evidence:
    """Everything the report tells."""

    drawn: dict[str, float]  # share of unsteered pictures that show each attribute of their prompt
    ceiling: Score  # the target's word in the prompt instead of steering
    unsteered: Score  # how often the target's colour comes without steering, and what can be read at all
    steered: dict[int, Score]
    random: dict[int, Score]
    by_colour: dict[str, Score]
    embeds: EmbedEvidence  # the same changes of colour, before the generator
    heat: dict[str, Heat]  # by SAE of the picture's stream
    names: dict[str, Names]  # by SAE: how right the labels are
    calibrated: Effects  # of the text stream's SAE


class Measurement:
    def __init__(self, pictures: int) -> None:
        self.transformer, self.decoder = load_transformer(), load_decoder()
        self.saes = {name: load_sae(name) for name in SAE_NAMES}
        self.pictures = pictures

    def decode(self, latents: Tensor) -> Tensor:
        with torch.no_grad():
            return self.decoder(latents)

    def run(self) -> Evidence:
        tallies = {
            (name, colour): tally_prompt(self.transformer, sae, FINDING.with_colour(colour), FINDING_SEEDS)
            for name, sae in self.saes.items()
            for colour in COLOURS
        }
        embeds = EmbedMeasurement(FINDING, FINDING_SEEDS)
        found = Evidence(
            {}, Score(), Score(), defaultdict(Score), defaultdict(Score), defaultdict(Score), embeds.found,
            {name: measure_heat(self.transformer, self.saes[name]) for name in (IMAGE_SAE, ATTENTION_SAE)},
            {name: measure_names(self.transformer, sae) for name, sae in self.saes.items()},
            self._calibrated(tallies),
        )  # fmt: skip
        right: dict[str, list[bool]] = defaultdict(list)
        pairs = [(source, target) for source in COLOURS for target in COLOURS if source != target]
        for number, (source, target) in enumerate(tqdm(pairs, desc="Colour changes")):
            prompts = self._prompts(source, number)
            seeds = range(FIRST_SEED + number * self.pictures, FIRST_SEED + number * self.pictures + len(prompts))
            pictures = self.decode(sample(self.transformer, prompts, seeds, STEPS))
            before = measure_pictures(pictures)
            for prompt, seen in zip(prompts, before.prompts, strict=True):
                for slot in ("colour", *KEPT):
                    right[slot].append(getattr(prompt, slot) == getattr(seen, slot))
            found.unsteered.add(before, before, target)
            worded = sample(self.transformer, [p.with_colour(target) for p in prompts], seeds, STEPS)
            found.ceiling.add(before, measure_pictures(self.decode(worded)), target)
            embeds.add(source, target, number, prompts, seeds)
            self._compare(found, Case(self.saes, tallies, source, target, pictures), prompts, seeds, before)
        found.drawn = {slot: sum(values) / len(values) for slot, values in right.items()}
        return found

    def _calibrated(self, tallies: Mapping[tuple[str, str], FeatureTally]) -> Effects:
        text = {colour: tallies[TEXT_SAE, colour] for colour in COLOURS}
        return Bench(self.transformer, self.decoder, self.saes[TEXT_SAE], text).run()

    def _prompts(self, source: str, number: int) -> list[Prompt]:
        """Other prompts for each change, spread over all held-out ones of the source's colour."""
        known = [prompt for prompt in held_out_prompts() if prompt.colour == source]
        return [known[(number * 5 + 7 * i) % len(known)] for i in range(self.pictures)]

    def _compare(
        self, found: Evidence, case: Case, prompts: Sequence[Prompt], seeds: Iterable[int], before: Readings
    ) -> None:
        seeds = list(seeds)
        for index, setting in enumerate(SETTINGS):
            interventions = setting.make(case)
            for scores, control in ((found.steered, None), (found.random, RANDOM_SEED + pair_number(case))):
                latents, record = draw_steered(self.transformer, prompts, seeds, interventions, control)
                after = measure_pictures(self.decode(latents))
                scores[index].add(before, after, case.target, record.summary().mean_ratio)
                if index == BEST and control is None:
                    found.by_colour[case.target].add(before, after, case.target)


def pair_number(case: Case) -> int:
    """Another random direction for each change of colour, the same in every run."""
    names = list(COLOURS)
    return names.index(case.source) * len(names) + names.index(case.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=6, help="for each of the 30 changes of colour")
    parser.add_argument("--out", type=Path, default=Path("docs/evidence.md"))
    given = parser.parse_args()
    evidence = Measurement(given.pictures).run()
    given.out.parent.mkdir(exist_ok=True)
    write_report(evidence, given.out)
    print(f"Written: {given.out}")


if __name__ == "__main__":
    main()
