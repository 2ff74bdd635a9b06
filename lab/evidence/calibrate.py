"""What CalibrateStrength's ends mean on the Shapes model: does 1.0 change the colour, does the upper end still draw?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sae.demo.shapes import COLOURS, Prompt, held_out_prompts
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.finding.features import FeatureTally, feature_list
from sae.places.site import resolve_site
from sae.steering.calibration import alone, calibrate_features
from sae.steering.edits import Calibration, Edit, Method
from sae.steering.intervention import Intervention
from sae.steering.methods import METHODS

from ..judge.reader import measure_pictures
from ..judge.steer import contrast, draw_steered, drawing_of

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

TRIED: tuple[Method, ...] = ("swap", "add", "boost_if_active")
ENDS = ("low", "clear", "high")
FEATURES = 8  # that swap takes out
STEPS = 4  # of the calibration's short samplings
PICTURES = 4  # for each change of colour
KEPT = ("place", "size", "background")
RANDOM_SEED = 11


@dataclass
class Effect:
    """Pictures at one end of the ranges."""

    pictures: int = 0
    changed: int = 0  # of another colour than the prompt's
    target: int = 0  # of the feature's colour
    kept: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEPT, 0))
    strength: float = 0.0  # sum
    ratio: float = 0.0  # sum of ‖Δ‖/‖x‖
    runs: int = 0


Effects = dict[tuple[Method, str], Effect]  # by method and end; "random" is the control at "clear"


def colour_features(tallies: Mapping[str, FeatureTally]) -> dict[str, int]:
    """For each colour, the feature whose mean is furthest above its mean for any other colour."""
    means = torch.stack([tally.mean for tally in tallies.values()])  # (colours, d_sae)
    found = {}
    for number, colour in enumerate(tallies):
        others = torch.cat([means[:number], means[number + 1 :]])
        found[colour] = int((means[number] - others.amax(0)).argmax())
    return found


class Bench:
    """Steers held-out prompts of one colour with one feature of another."""

    def __init__(
        self, transformer: FluxTransformer2DModel, decoder: nn.Module, sae: SparseAutoencoder,
        tallies: Mapping[str, FeatureTally],
    ) -> None:  # fmt: skip
        self.transformer, self.decoder, self.sae, self.tallies = transformer, decoder, sae, tallies
        self.site = resolve_site("auto", "auto", sae.site)
        self.features = colour_features(tallies)
        self.found: Effects = defaultdict(Effect)

    def run(self) -> Effects:
        pairs = [(source, target) for source in COLOURS for target in COLOURS if source != target]
        for number, (source, target) in enumerate(tqdm(pairs, desc="Calibrations")):
            known = [prompt for prompt in held_out_prompts() if prompt.colour == source]
            model_prompt = known[7 * number % len(known)]
            others = [known[(5 * number + 7 * i + 1) % len(known)] for i in range(PICTURES)]
            for method in TRIED:
                calibration = self._calibrate(source, target, method, model_prompt, number)
                if calibration is not None:
                    self._measure(source, target, calibration, others, 5000 + PICTURES * number)
        return self.found

    def _edit(self, target: str) -> Edit:
        tally, k = self.tallies[target], self.features[target]
        return Edit(k, 1.0, float(tally.mean_where_active[k]), float(tally.max[k]), float(tally.density[k]))

    def _steering(self, source: str, target: str, method: Method) -> Callable[[Edit, float], Intervention]:
        swaps = METHODS[method].needs_replaces
        lost = contrast(self.tallies[source], self.tallies[target], FEATURES) if swaps else []
        return alone(self.sae, self.site, method, feature_list(lost))

    def _calibrate(self, source: str, target: str, method: Method, prompt: Prompt, seed: int) -> Calibration | None:
        draw, edit = drawing_of(self.transformer, [prompt], [seed], STEPS), self._edit(target)
        found = calibrate_features(draw, [edit], method, self._steering(source, target, method))
        return found[edit.feature]

    def _measure(
        self, source: str, target: str, calibration: Calibration, prompts: Sequence[Prompt], seed: int
    ) -> None:
        seeds = range(seed, seed + len(prompts))
        steering, edit = self._steering(source, target, calibration.method), self._edit(target)
        for end, strength, control in (
            *((end, getattr(calibration, end), None) for end in ENDS),
            ("random", calibration.clear, RANDOM_SEED + seed),
        ):
            latents, record = draw_steered(self.transformer, prompts, seeds, [steering(edit, strength)], control)
            effect = self.found[calibration.method, end]
            effect.strength += strength
            effect.ratio += record.summary().mean_ratio
            effect.runs += 1
            self._judge(effect, latents, prompts, source, target)

    def _judge(self, effect: Effect, latents: Tensor, prompts: Sequence[Prompt], source: str, target: str) -> None:
        with torch.no_grad():
            seen = measure_pictures(self.decoder(latents)).prompts
        for wanted, picture in zip(prompts, seen, strict=True):
            effect.pictures += 1
            effect.changed += picture.colour != source
            effect.target += picture.colour == target
            for slot in KEPT:
                effect.kept[slot] += getattr(picture, slot) == getattr(wanted, slot)
