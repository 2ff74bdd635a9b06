"""One change with all that is known of it before it is steered, and how each row of the evidence steers it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional

from sae.demo.shapes import PICTURE_SIZE, SLOTS, Prompt, held_out_prompts
from sae.demo.shipped_weights import ATTENTION_SAE, ATTENTION_SET, ENTERING_SAE, IMAGE_SAE, TEXT_SAE
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.finding.effect import CANDIDATES
from sae.finding.features import RankedFeature, feature_list
from sae.finding.heatmap import HeatReader, on_picture, region_of
from sae.places.site import Site
from sae.steering.delta import Steering
from sae.steering.edits import Method
from sae.steering.intervention import Intervention
from sae.steering.methods import METHODS

from ..judge.reader import shape_masks
from ..judge.steer import contrast
from .heat import THRESHOLD
from .rows import FEATURES, Row
from .seen import Seen

# The features are found with the first of these, or with all of them, each word of a kind in its turn.
FINDING = (
    Prompt("red", "square", "center", "big", "grey"),
    Prompt("orange", "circle", "left", "small", "white"),
    Prompt("blue", "cross", "top", "big", "black"),
    Prompt("green", "triangle", "right", "small", "grey"),
    Prompt("yellow", "circle", "bottom", "big", "black"),
    Prompt("purple", "square", "top", "small", "white"),
    Prompt("red", "cross", "right", "big", "grey"),
    Prompt("blue", "triangle", "center", "small", "black"),
)
RUNS = 8  # pictures that a search looks at, shared by its prompts
FIRST_SEED = 1000


@dataclass(frozen=True)
class Change:
    """From one word of a kind (a slot of the prompts) to another. `number` counts the changes of this kind."""

    slot: str
    source: str
    target: str
    number: int

    def prompts(self, count: int) -> list[Prompt]:
        """Others for each change, spread over all held-out ones that say the source."""
        known = [prompt for prompt in held_out_prompts() if getattr(prompt, self.slot) == self.source]
        return [known[(self.number * 5 + 7 * i) % len(known)] for i in range(count)]

    def seeds(self, count: int) -> range:
        return range(FIRST_SEED + self.number * count, FIRST_SEED + (self.number + 1) * count)

    def worded(self, prompt: Prompt) -> Prompt:
        """The prompt with the target's word: what steering is compared with."""
        return saying(prompt, self.slot, self.target)


def saying(prompt: Prompt, slot: str, word: str) -> Prompt:
    return replace(prompt, **{slot: word})


def changes(slot: str) -> Iterator[Change]:
    """From every word of a kind to every other."""
    words = SLOTS[slot]
    pairs = [(source, target) for source in words for target in words if source != target]
    for number, (source, target) in enumerate(pairs):
        yield Change(slot, source, target, number)


MASK_MARGIN = 4  # pixels around the shape, for its antialiased rim
PLACES: dict[str, tuple[str, ...]] = {
    "entering": (ENTERING_SAE,),
    "text": (TEXT_SAE,),
    "attention": (ATTENTION_SAE,),
    "image": (IMAGE_SAE,),
    "set": ATTENTION_SET,
    "text and set": (TEXT_SAE, *ATTENTION_SET),
}
HEAT_SAE = IMAGE_SAE  # whose features mark the region that is steered

Found = Mapping[tuple[str, int], Mapping[str, Seen]]  # (word, prompts of the search) -> SAE's name -> what was seen
# Of one SAE's name, of what one prompt has over another, those that act most: as many as are wanted.
ByEffect = Callable[[str, Prompt, Prompt, list[RankedFeature], int], list[RankedFeature]]


@dataclass(frozen=True)
class Case:
    """A change, what was seen of its words, and the unsteered pictures (batch, 3, 128, 128) with their heat."""

    saes: Mapping[str, SparseAutoencoder]
    found: Found
    change: Change
    pictures: Tensor
    heat: HeatReader
    by_effect: ByEffect

    def interventions(self, row: Row) -> list[Intervention]:
        """What the row steers with, at each of its places."""
        names = PLACES[row.where]
        if row.method != "scale, set":
            return [self._steer(name, row.method, row.strength, row) for name in names]
        out_and_in = [("scale", 0.0, True), ("set", row.strength, False)]
        return [self._steer(name, *act[:2], row, of_source=act[2]) for name in names for act in out_and_in]

    def differences(self, row: Row) -> dict[Site, Tensor]:
        """Mean activations of the target's prompt less those of the source's, times the row's strength."""
        sides = [self._sides(name, row) for name in PLACES[row.where]]
        return {here.site: row.strength * (here.mean - there.mean) for here, there in sides}

    def _sides(self, name: str, row: Row) -> tuple[Seen, Seen]:
        """What was seen of the target and of the source."""
        here, there = (self.found[word, row.prompts][name] for word in (self.change.target, self.change.source))
        return here, there

    def _ranked(self, name: str, row: Row, target: bool) -> list[RankedFeature]:
        here, there = self._sides(name, row) if target else self._sides(name, row)[::-1]
        if row.rank == "mean":
            return contrast(here.tally, there.tally, row.count)
        words = (self.change.target, self.change.source) if target else (self.change.source, self.change.target)
        prompt, baseline = (saying(FINDING[0], self.change.slot, word) for word in words)
        return self.by_effect(name, prompt, baseline, contrast(here.tally, there.tally, CANDIDATES), row.count)

    def _steer(self, name: str, method: Method, strength: float, row: Row, of_source: bool = False) -> Intervention:
        """With the features of the target against the source, or the reverse, as TopActivatingFeatures finds them."""
        here, _ = self._sides(name, row)
        gained, lost = (feature_list(self._ranked(name, row, target)) for target in (True, False))
        features, replaces = (lost, gained) if of_source else (gained, lost)
        steering = Steering(
            self.saes[name], features, method, strength, row.unit, replaces if METHODS[method].needs_replaces else ()
        )
        picture = here.site.stream != "text"
        return Intervention(steering, here.site, row.schedule, mask=self._region(row) if picture else None)

    def _region(self, row: Row) -> Tensor | None:
        """(batch, 128, 128): the unsteered shape with a small margin, or where the source's features are hot."""
        if row.region == "shape":
            width = 2 * MASK_MARGIN + 1
            return functional.max_pool2d(shape_masks(self.pictures), width, 1, MASK_MARGIN).squeeze(1)
        if row.region == "heat":
            return region_of(on_picture(self.heat.cells, (PICTURE_SIZE, PICTURE_SIZE)), THRESHOLD)
        return None


def heat_of_source(saes: Mapping[str, SparseAutoencoder], found: Found, change: Change) -> HeatReader:
    """FeatureHeatmap's reader for the features that the source has over the target."""
    here, there = (found[word, 1][HEAT_SAE] for word in (change.source, change.target))
    features = [row.feature for row in contrast(here.tally, there.tally, FEATURES)]
    return HeatReader(saes[HEAT_SAE], here.site, features)
