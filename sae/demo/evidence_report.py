"""The evidence as a page of Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .files import SAE_NAMES, load_sae
from .settings import BEST, FEATURES, SETTINGS

if TYPE_CHECKING:
    from .evidence import Evidence, Score

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

LESSONS = Path(__file__).parent / "lessons.md"


def write_report(evidence: Evidence, path: Path) -> None:
    parts = [INTRODUCTION.format(features=FEATURES, pictures=evidence.unsteered.pictures), _saes(), _drawn(evidence)]
    parts += [_comparison(evidence), _colours(evidence), LESSONS.read_text(encoding="utf-8")]
    path.write_text("\n".join(parts), encoding="utf-8")


def _saes() -> str:
    lines = ["## The SAEs", "", "| SAE | features | k | dead | fires per token |", "|---|---|---|---|---|"]
    for name in SAE_NAMES:
        sae = load_sae(name)
        statistics = sae.statistics
        if statistics is None or statistics.density is None:
            continue
        dead, active = float(statistics.dead.float().mean()), float(statistics.density.sum())
        lines.append(f"| {name} | {sae.d_sae} | {sae.architecture.k} | {dead:.0%} | {active:.1f} |")
    return "\n".join([*lines, ""])


def _drawn(evidence: Evidence) -> str:
    shares = " · ".join(f"{slot} {share:.0%}" for slot, share in evidence.drawn.items())
    return f"## The model, unsteered\n\nPictures that show what their (held-out) prompt says: {shares}.\n"


def _comparison(evidence: Evidence) -> str:
    lines = [
        "## Sites, methods, strengths",
        "",
        "| site | steering | ‖Δ‖/‖x‖ | changed | shape | place | size | background | all kept | strict "
        "| random: changed | random: strict |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        f"| none | unsteered | 0 | {_row(evidence.unsteered)} | | |",
        f"| the prompt | the target's word instead of the source's | | {_row(evidence.ceiling)} | | |",
    ]
    for index, setting in enumerate(SETTINGS):
        score, control = evidence.steered[index], evidence.random[index]
        random = f"{control.share(control.changed):.0%} | {control.share(control.strict):.0%}"
        ratio = score.ratio / score.runs
        lines.append(f"| {setting.site} | {setting.what} | {ratio:.2f} | {_row(score)} | {random} |")
    return "\n".join([*lines, ""])


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
