"""The same changes of colour before the generator: the small Kandinsky's part of the evidence."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from sae.demo.shapes import SLOTS
from sae.dictionary.autoencoder import SparseAutoencoder

from ..kandinsky.embed_evidence import EmbedMeasurement
from ..kandinsky.settings import SETTINGS, EmbedSetting
from .cases import FINDING, changes
from .tables import UNSTEERED, WORDED, Line, Table

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
