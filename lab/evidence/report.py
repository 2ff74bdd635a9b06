"""The evidence as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sae.demo.files import SAE_NAMES, load_sae
from sae.demo.kandinsky.files import EMBED_SAE

from ..kandinsky.settings import BEST as EMBED_BEST
from ..kandinsky.settings import SETTINGS as EMBED_SETTINGS
from .settings import BEST, FEATURES, SETTINGS
from .tools import calibration_section, names_section

if TYPE_CHECKING:
    from ..judge.score import Score
    from ..kandinsky.evidence import EmbedEvidence
    from .__main__ import Evidence
    from .heat import Heat

INTRODUCTION = """# Evidence: does steering the features of one colour change that colour, and only it?

Made by `make evidence`, on the Shapes model that comes with the pack; every number in the tables is that command's.

**How.** For each ordered pair of the six colours, features are found the way TopActivatingFeatures finds them: the
prompt "<target> square center big grey" against the baseline "<source> square center big grey", four seeds, eight
steps, ranked by difference of the mean, at most {features} features, and nothing else. They then steer pictures of
prompts that training never saw and that have the source's colour ({pictures} pictures a row: 30 changes of colour).
A rule-based reader judges each picture. *changed*: the shape has the target's colour. *kept*: place, size and
background read the same as in the unsteered picture of the same prompt and seed, and the shape's outline overlaps the
unsteered one's by at least 0.85 (intersection over union; a circle and a square of one area reach 0.84).
*strict*: changed, and all four kept. The random control moves every token exactly as far as the steering does, but
along one random direction. The second row is the ceiling: nothing is steered, but the prompt says the target's colour;
even that moves this small model's outlines. ‖Δ‖/‖x‖ is the mean over tokens and steps. "On the shape" restricts the
steering to a mask of the unsteered picture's shape; everything else acts on every token of its stream.
"""

EMBED_TEXT = """The same changes of colour, prompts, seeds and judge, in the small Kandinsky: the prompt goes through
the prior, the embedding is edited once, the decoder draws it (64 × 64 pixels) and sees nothing else. Features come from
embeddings of the same two prompts, four seeds, at most 8 from each side. The last row uses no SAE: it adds the
difference between the mean embeddings of those eight examples.
"""
LEVELS_TEXT = """The same prompts and changes of colour at both levels, each with the strength of `swap` that was picked
beforehand. The levels belong to two models, trained on the same drawings and prompts, so compare each with its own
ceiling (the row "the prompt says the target's word").
"""
HEAT_TEXT = """As FeatureHeatmap looks: drawings of all held-out prompts, noised back to sigma 0.5, one call of the
FLUX; the feature that fires most for the drawing's colour (chosen on training drawings), from 0.3 of its largest
activation on. Mean intersection over union with the shape. A token is 16 pixels wide, so no heat can follow an outline
more closely than the last column does.
"""
LESSONS = Path(__file__).parent / "lessons.md"


def write_report(evidence: Evidence, path: Path) -> None:
    parts = [INTRODUCTION.format(features=FEATURES, pictures=evidence.unsteered.pictures), _saes(), _drawn(evidence)]
    parts += [_comparison(evidence), _colours(evidence), _embeds(evidence.embeds), _levels(evidence)]
    parts += [_heat(evidence.heat), names_section(evidence.names), calibration_section(evidence.calibrated)]
    parts.append(LESSONS.read_text(encoding="utf-8"))
    path.write_text("\n".join(parts), encoding="utf-8")


def _saes() -> str:
    lines = ["## The SAEs", "", "| SAE | features | k | dead | fires per token |", "|---|---|---|---|---|"]
    for name in (*SAE_NAMES, EMBED_SAE):
        sae = load_sae(name)
        statistics = sae.statistics
        if statistics is None or statistics.density is None:
            continue
        dead, active = float(statistics.dead.float().mean()), float(statistics.density.sum())
        lines.append(f"| {name} | {sae.d_sae} | {sae.architecture.k} | {dead:.0%} | {active:.1f} |")
    return "\n".join([*lines, ""])


def _drawn(evidence: Evidence) -> str:
    return (
        "## The models, unsteered\n\nPictures that show what their (held-out) prompt says: "
        f"the FLUX {_shares(evidence.drawn)}; the Kandinsky {_shares(evidence.embeds.drawn)}.\n"
    )


def _shares(drawn: Mapping[str, float]) -> str:
    return " · ".join(f"{slot} {share:.0%}" for slot, share in drawn.items())


def _comparison(evidence: Evidence) -> str:
    lines = ["## Inside FLUX: sites, methods, strengths", "", *_head("site")]
    lines += _references("none", evidence.unsteered, evidence.ceiling)
    for index, setting in enumerate(SETTINGS):
        lines.append(_compared(f"{setting.site} | {setting.what}", evidence.steered[index], evidence.random[index]))
    return "\n".join([*lines, ""])


def _embeds(evidence: EmbedEvidence) -> str:
    lines = ["## Before the generator: the embedding that Kandinsky's decoder draws", "", EMBED_TEXT, *_head("place")]
    lines += _references("none", evidence.unsteered, evidence.ceiling)
    for index, setting in enumerate(EMBED_SETTINGS):
        lines.append(_compared(f"image_embeds | {setting.what}", evidence.steered[index], evidence.random[index]))
    return "\n".join([*lines, ""])


def _levels(evidence: Evidence) -> str:
    """The two levels side by side, each with the method that was set beforehand."""
    inside, before = SETTINGS[BEST], EMBED_SETTINGS[EMBED_BEST]
    lines = ["## Level against level", "", LEVELS_TEXT, *_head("level")]
    for level, what, found, best in (
        ("inside FLUX", f"{inside.what} at {inside.site}", evidence, BEST),
        ("before the generator", f"{before.what} at image_embeds", evidence.embeds, EMBED_BEST),
    ):
        lines += _references(level, found.unsteered, found.ceiling)
        lines.append(_compared(f"{level} | {what}", found.steered[best], found.random[best]))
    return "\n".join([*lines, ""])


def _heat(found: Mapping[str, Heat]) -> str:
    lines = ["## Where features fire: heat against the shape", "", HEAT_TEXT]
    lines += ["| SAE | own colour's feature | another colour's | the shape in whole tokens |", "|---|---|---|---|"]
    lines += [f"| {name} | {heat.own:.2f} | {heat.other:.2f} | {heat.ceiling:.2f} |" for name, heat in found.items()]
    return "\n".join([*lines, ""])


def _head(first: str) -> list[str]:
    names = "steering | ‖Δ‖/‖x‖ | changed | shape | place | size | background | all kept | strict"
    return [f"| {first} | {names} | random: changed | random: strict |", "|---" * 12 + "|"]


def _references(place: str, unsteered: Score, ceiling: Score) -> list[str]:
    return [
        f"| {place} | unsteered | 0 | {_row(unsteered)} | | |",
        f"| {place} | the prompt says the target's word | | {_row(ceiling)} | | |",
    ]


def _compared(name: str, score: Score, control: Score) -> str:
    random = f"{control.share(control.changed):.0%} | {control.share(control.strict):.0%}"
    return f"| {name} | {score.ratio / score.runs:.2f} | {_row(score)} | {random} |"


def _row(score: Score) -> str:
    counts = [score.changed, *score.kept.values(), score.all_kept, score.strict]
    return " | ".join(f"{score.share(count):.0%}" for count in counts)


def _colours(evidence: Evidence) -> str:
    setting = SETTINGS[BEST]
    lines = [
        f"## Colour by colour: {setting.what} at {setting.site}",
        "",
        "| target | changed | shape | place | size | background | all kept | strict |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {colour} | {_row(score)} |" for colour, score in evidence.by_colour.items()),
    ]
    return "\n".join([*lines, ""])
