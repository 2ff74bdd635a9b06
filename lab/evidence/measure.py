"""Steers held-out prompts row by row, and judges every picture against its unsteered twin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from sae.demo.shapes import SLOTS, Prompt
from sae.demo.shapes_model import sample
from sae.demo.shipped_weights import SAE_NAMES, load_decoder, load_sae, load_transformer
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.finding.features import RankedFeature
from sae.hosts.diffusers import capture

from ..judge.reader import Readings, measure_pictures
from ..judge.score import Score
from ..judge.steer import STEPS, draw_steered, effect
from ..kandinsky.embed_evidence import EmbedMeasurement
from ..kandinsky.settings import SETTINGS, EmbedSetting
from .cases import FINDING, RUNS, Case, Change, Found, changes, heat_of_source, saying
from .rows import MANY, TOLD, Row
from .seen import Seen, draw_shifted, see_prompts
from .tables import UNSTEERED, WORDED, Line, Table

RANDOM_SEED = 7  # another direction for each change, the same in every run


class Measurement:
    """The model, its SAEs, and what was seen of each word."""

    def __init__(self, others: Mapping[str, SparseAutoencoder] | None = None) -> None:
        """`others` stand in for shipped SAEs, by the names of these."""
        self.transformer, self.decoder = load_transformer(), load_decoder()
        self.saes = {name: load_sae(name) for name in SAE_NAMES} | dict(others or {})
        self._found: dict[tuple[str, int], dict[str, Seen]] = {}
        self._effects: dict[tuple[str, Prompt, Prompt, tuple[int, ...]], list[RankedFeature]] = {}

    def found(self, slot: str) -> Found:
        """What was seen of each word of a kind, in a search with one prompt and in one with many."""
        for word in SLOTS[slot]:
            for count in (1, MANY):
                if (word, count) not in self._found:
                    prompts = [saying(prompt, slot, word) for prompt in FINDING[:count]] * (RUNS // count)
                    self._found[word, count] = see_prompts(self.transformer, self.saes, prompts, range(RUNS))
        return self._found

    def by_effect(
        self, name: str, prompt: Prompt, baseline: Prompt, found: list[RankedFeature], count: int
    ) -> list[RankedFeature]:
        """The first of them by their effect; tried once, however many rows ask."""
        key = name, prompt, baseline, tuple(row.feature for row in found)
        if key not in self._effects:
            self._effects[key] = effect(self.transformer, self.saes[name], prompt, baseline, found, len(found))
        return self._effects[key][:count]

    def table(self, slot: str, rows: Sequence[Row], pictures: int) -> Table:
        """Every row over all changes of a kind, about `pictures` in all: as many of each change."""
        references = [Line("none", what, Score(slot)) for what in (UNSTEERED, WORDED)]
        lines = [Line(TOLD[row.where], str(row), Score(slot), Score(slot) if row.random else None) for row in rows]
        table, asked = Table(slot, references + lines), list(changes(slot))
        with tqdm(total=len(asked) * len(rows), desc=f"Changes of {slot}") as bar:
            for change in asked:
                for _ in self._change(change, max(1, round(pictures / len(asked))), table, rows):
                    bar.update()
        return table

    def _change(self, change: Change, count: int, table: Table, rows: Sequence[Row]) -> Iterable[None]:
        prompts, seeds = change.prompts(count), change.seeds(count)
        heat = heat_of_source(self.saes, self.found(change.slot), change)
        with capture(self.transformer, heat.site, heat):
            pictures = self.decode(sample(self.transformer, prompts, seeds, STEPS))
        before = measure_pictures(pictures)
        _count_shown(table, prompts, before)
        unsteered, worded, *lines = table.lines
        unsteered.score.add(before, before, change.target)
        drawn = sample(self.transformer, [change.worded(prompt) for prompt in prompts], seeds, STEPS)
        worded.score.add(before, measure_pictures(self.decode(drawn)), change.target)
        case = Case(self.saes, self.found(change.slot), change, pictures, heat, self.by_effect)
        for row, line in zip(rows, lines, strict=True):
            for score, control in ((line.score, None), (line.random, RANDOM_SEED + change.number)):
                if score is not None:
                    latents, ratio = self._draw(case, row, prompts, seeds, control)
                    score.add(before, measure_pictures(self.decode(latents)), change.target, ratio)
            yield

    def _draw(
        self, case: Case, row: Row, prompts: Sequence[Prompt], seeds: Sequence[int], control: int | None
    ) -> tuple[Tensor, float]:
        """Latents, and mean ‖Δ‖/‖x‖."""
        if row.method == "difference":
            latents, record = draw_shifted(self.transformer, prompts, seeds, case.differences(row))
        else:
            latents, record = draw_steered(self.transformer, prompts, seeds, case.interventions(row), control)
        return latents, record.summary().mean_ratio

    def decode(self, latents: Tensor) -> Tensor:
        with torch.no_grad():
            return self.decoder(latents)


def _count_shown(table: Table, prompts: Sequence[Prompt], seen: Readings) -> None:
    for asked, shown in zip(prompts, seen.prompts, strict=True):
        for slot in SLOTS:
            table.shown[slot] += getattr(asked, slot) == getattr(shown, slot)


WHERE = "image_embeds"
FINDING_SEEDS = range(4)


def embed_table(
    pictures: int, sae: SparseAutoencoder | None = None, settings: Sequence[EmbedSetting] = SETTINGS
) -> Table:
    """As many pictures a row, with the prompts and seeds of the FLUX's colour table; of the shipped SAE or `sae`."""
    measurement = EmbedMeasurement(FINDING[0], FINDING_SEEDS, sae, settings)
    asked = list(changes("colour"))
    count = max(1, round(pictures / len(asked)))
    for change in tqdm(asked, desc="Changes of colour, Kandinsky"):
        measurement.add(change.source, change.target, change.number, change.prompts(count), change.seeds(count))
    found = measurement.found
    lines = [Line("none", UNSTEERED, found.unsteered), Line("none", WORDED, found.ceiling)]
    lines += [
        Line(WHERE, setting.what, found.steered[index], found.random.get(index))
        for index, setting in enumerate(settings)
    ]
    return Table("colour", lines, {slot: sum(found.right[slot]) for slot in SLOTS})
