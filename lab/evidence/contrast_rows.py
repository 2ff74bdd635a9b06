"""Directions without an SAE, as ContrastDirection makes them: what they change, and whether the noise floor tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor
from tqdm import tqdm

from sae.demo.shapes import SLOTS, Prompt
from sae.demo.shapes_model import sample
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.contrast import SIDES, Contrast, Side, Way
from sae.finding.features import feature_list
from sae.finding.two_sides import Runs, Show, find_contrasts, measure, rows_of
from sae.hosts.diffusers import capture
from sae.places.moment import Moment, OnStep, unheard
from sae.places.site import Site
from sae.steering.delta import Steering
from sae.steering.edits import Method
from sae.steering.intervention import Intervention
from sae.steering.methods import METHODS

from ..judge.reader import measure_pictures
from ..judge.score import Score
from ..judge.steer import STEPS, draw_steered
from .cases import FINDING, RUNS, Change, changes, saying
from .tables import UNSTEERED, WORDED, Line, Table

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from .measure import Measurement

ENTERING = [Site("double", (0,), "input", "text")]
TEXT = [Site("double", (0,), "block", "text")]
LATER = [Site("double", (1,), "block", "text")]
ATTENTION = [Site("double", (n,), "attn", "image") for n in range(2)]
ATTENTION += [Site("single", (n,), "attn", "image") for n in range(4)]
OUTPUTS = [Site("double", (n,), "block", "image") for n in range(2)]
OUTPUTS += [Site("single", (n,), "block", "image") for n in range(4)]
PLACES: Mapping[str, Sequence[Site]] = {
    "transformer_blocks.0.input, text": ENTERING,
    "transformer_blocks.0, text": TEXT,
    "transformer_blocks.1, text": LATER,
    "transformer_blocks.0-1, text": [*TEXT, *LATER],
    "all six attention outputs, image": ATTENTION,
    "all six block outputs, image": OUTPUTS,
    "text and all six attention outputs": [*TEXT, *ATTENTION],
}
RANDOM_SEED = 7
NULLS = 40  # contrasts of a prompt with itself, for the noise floor

TEXT_OF_SECTION = """\
The same changes, prompts, seeds and judge, {pictures} pictures a row, with no SAE at all: the difference between the
mean tokens of both sides, over all tokens, as ContrastDirection makes it, so that nothing hangs on where in a prompt a
word stands. `.input` is what a block reads, before it. *swap* mirrors what lies on the source's side; *add raw 1* adds
the difference itself to every token, and *5* as much as one of the five words makes of it. "One prompt": eight seeds of
one pair; else eight pairs, one seed each. *whitened* reads past how tokens vary anyway, *pca* takes the main direction
of the pairs' differences; else it is their mean.
"""
FLOOR_TEXT = """\
**The noise floor.** ‖d‖ over the length that chance alone gives it; below 2 a direction is called nothing. Eight pairs
of prompts of red and blue, one seed each; and {pairs} times eight runs of one and the same prompt against each other,
each with seeds of its own, where there is nothing to find.
"""


@dataclass(frozen=True)
class Row:
    where: str
    method: Method
    strength: float = 1.0
    prompts: int = len(FINDING)
    random: bool = False
    way: Way = "mean"

    def __str__(self) -> str:
        unit = " raw" if METHODS[self.method].pushes else ""
        more = [*([self.way] if self.way != "mean" else []), *(["one prompt"] if self.prompts == 1 else [])]
        return ", ".join([f"{self.method}{unit} {self.strength:g}", *more])


EIGHT = len(FINDING)
ENTERING_ROWS = tuple(
    Row("transformer_blocks.0.input, text", "swap", prompts=prompts, random=prompts > 1, way=way)
    for way, prompts in (("mean", EIGHT), ("mean", 1), ("whitened", EIGHT), ("whitened", 1), ("pca", EIGHT))
)
# The other ways at the other places.
WAY_ROWS = tuple(
    Row(where, "swap", strength, way=way)
    for where, strength in (("transformer_blocks.0, text", 1.0), ("all six attention outputs, image", 2.0))
    for way in ("whitened", "pca")
)
COLOUR_ROWS = (
    *ENTERING_ROWS,
    Row("transformer_blocks.0, text", "swap", random=True),
    Row("transformer_blocks.0, text", "swap", prompts=1),
    Row("transformer_blocks.0, text", "swap", 0.5),
    Row("transformer_blocks.0, text", "add"),
    Row("transformer_blocks.0, text", "add", 5.0),
    Row("transformer_blocks.1, text", "swap"),
    Row("transformer_blocks.0-1, text", "swap"),
    *(Row("all six attention outputs, image", "swap", s, random=s == 3) for s in (1.0, 2.0, 3.0)),
    Row("all six attention outputs, image", "add"),
    Row("all six block outputs, image", "swap"),
    Row("text and all six attention outputs", "swap"),
    *WAY_ROWS,
)
KIND_ROWS = (
    *ENTERING_ROWS,
    Row("transformer_blocks.0, text", "swap"),
    Row("transformer_blocks.0, text", "swap", prompts=1),
    Row("all six attention outputs, image", "swap", 2.0),
    *WAY_ROWS,
)


Drawn = tuple[Prompt, int]  # with its seed
See = Callable[[Tensor, Moment], None]


Calls = list[tuple[Tensor, Moment]]  # tokens (runs, tokens, d_in) of each call


class Watched:
    """Runs of the Shapes model in one batch, each prompt with its seed, and what every site saw of them."""

    def __init__(self, transformer: FluxTransformer2DModel, sites: Sequence[Site]) -> None:
        self.transformer, self.sites = transformer, sites
        self._known: dict[tuple[Drawn, ...], dict[Site, Calls]] = {}

    def saw(self, runs: tuple[Drawn, ...]) -> dict[Site, Calls]:
        if runs not in self._known:
            seen: dict[Site, Calls] = {site: [] for site in self.sites}
            with ExitStack() as stack:
                for site in self.sites:
                    stack.enter_context(capture(self.transformer, site, partial(_keep, seen[site])))
                sample(self.transformer, [prompt for prompt, _ in runs], [seed for _, seed in runs], STEPS)
            self._known[runs] = seen
        return self._known[runs]

    def show(self, sides: Mapping[Side, tuple[Drawn, ...]]) -> Show:
        """The `Show` of both sides' runs."""

        def show(side: Side, run: int, sees: Sequence[See], on_step: OnStep) -> None:
            for site, see in zip(self.sites, sees, strict=True):
                for x, moment in self.saw(sides[side])[site]:
                    see(x[run : run + 1], moment)

        return show


def _keep(calls: Calls, x: Tensor, moment: Moment) -> None:
    calls.append((x.clone(), moment))


def _runs(slot: str, word: str, count: int) -> tuple[Drawn, ...]:
    return tuple((saying(FINDING[run % count], slot, word), run) for run in range(RUNS))


@dataclass
class Directions:
    """What the words of a change differ in, looked for once for each number of prompts and way."""

    watched: Watched
    change: Change
    _known: dict[tuple[int, Way], dict[Site, SparseAutoencoder]] = field(default_factory=dict)

    def found(self, prompts: int, way: Way) -> dict[Site, SparseAutoencoder]:
        """At each site where there is something; made and measured as ContrastDirection does it."""
        if (prompts, way) not in self._known:
            words: dict[Side, str] = {"positive": self.change.target, "negative": self.change.source}
            show = self.watched.show({side: _runs(self.change.slot, word, prompts) for side, word in words.items()})
            runs, sites = Runs(RUNS, RUNS, paired=True, again=RUNS, way=way), self.watched.sites
            found = zip(sites, find_contrasts(show, sites, runs, unheard), strict=True)
            saes = {site: one.dictionary(site, f"{self.change} {site}") for site, one in found if not one.is_nothing}
            measure(show, sites, saes, runs, unheard)
            self._known[prompts, way] = saes
        return self._known[prompts, way]

    def interventions(self, row: Row) -> list[Intervention]:
        saes = self.found(row.prompts, row.way)
        made = []
        for site in PLACES[row.where]:
            if site in saes:
                features, replaces = (feature_list(rows_of(saes[site], side)) for side in SIDES)
                taken = replaces if METHODS[row.method].needs_replaces else ()
                made.append(Intervention(Steering(saes[site], features, row.method, row.strength, "raw", taken), site))
        return made


def contrast_section(model: Measurement, pictures: int) -> str:
    """The tables of colour and of the other kinds, and of the noise floor."""
    tables = [_table(model, slot, COLOUR_ROWS if slot == "colour" else KIND_ROWS, pictures) for slot in SLOTS]
    parts = ["## Without an SAE: contrast directions", "", TEXT_OF_SECTION.format(pictures=tables[0].pictures)]
    for table in tables:
        parts += [f"Changes of {table.slot}:", "", table.markdown()]
    return "\n".join([*parts, *_floors(model.transformer)])


def _table(model: Measurement, slot: str, rows: Sequence[Row], pictures: int) -> Table:
    references = [Line("none", what, Score(slot)) for what in (UNSTEERED, WORDED)]
    lines = [Line(row.where, str(row), Score(slot), Score(slot) if row.random else None) for row in rows]
    sites = list(dict.fromkeys(site for row in rows for site in PLACES[row.where]))
    asked, watched = list(changes(slot)), Watched(model.transformer, sites)
    for change in tqdm(asked, desc=f"Changes of {slot}"):
        count = max(1, round(pictures / len(asked)))
        prompts, seeds = change.prompts(count), change.seeds(count)
        before = measure_pictures(model.decode(sample(model.transformer, prompts, seeds, STEPS)))
        references[0].score.add(before, before, change.target)
        worded = sample(model.transformer, [change.worded(prompt) for prompt in prompts], seeds, STEPS)
        references[1].score.add(before, measure_pictures(model.decode(worded)), change.target)
        directions = Directions(watched, change)
        for row, line in zip(rows, lines, strict=True):
            interventions = directions.interventions(row)
            for score, control in ((line.score, None), (line.random, RANDOM_SEED + change.number)):
                if score is not None:
                    latents, record = draw_steered(model.transformer, prompts, seeds, interventions, control)
                    after = measure_pictures(model.decode(latents))
                    score.add(before, after, change.target, record.summary().mean_ratio)
    return Table(slot, references + lines)


def _floors(transformer: FluxTransformer2DModel) -> list[str]:
    """‖d‖ over the noise floor at a few places: of red and blue, and of one prompt against itself."""
    watched = Watched(transformer, [*TEXT, *LATER, ATTENTION[1], ATTENTION[-1], OUTPUTS[1]])
    words: dict[Side, str] = {"positive": "blue", "negative": "red"}
    real = _contrasts(watched, {side: _runs("colour", word, len(FINDING)) for side, word in words.items()}, True)
    alike = []
    for number in range(NULLS):
        seeds = range(2 * RUNS * number, 2 * RUNS * (number + 1))
        runs = [tuple((FINDING[0], seed) for seed in seeds[part::2]) for part in range(2)]
        alike.append(_contrasts(watched, {"positive": runs[0], "negative": runs[1]}, False))
    lines = [
        FLOOR_TEXT.format(pairs=NULLS),
        "| where | red and blue | nothing: mean | nothing: largest | called nothing |",
        "|---" * 5 + "|",
    ]
    for site, contrast, chance in zip(watched.sites, real, zip(*alike, strict=True), strict=True):
        times = [found.times or 0.0 for found in chance]
        share = sum(found.is_nothing for found in chance) / NULLS
        lines.append(f"| {site} | {contrast.times:.0f} | {sum(times) / NULLS:.2f} | {max(times):.2f} | {share:.0%} |")
    return [*lines, ""]


def _contrasts(watched: Watched, sides: Mapping[Side, tuple[Drawn, ...]], paired: bool) -> list[Contrast]:
    return find_contrasts(watched.show(sides), watched.sites, Runs(RUNS, RUNS, paired, 0), unheard)
