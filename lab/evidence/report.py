"""The evidence as a page of Markdown, with its sections on tools: heat, names, calibrated strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sae.demo.shapes import SLOTS
from sae.demo.shipped_weights import EMBED_SAE, SAE_NAMES, load_sae

from ..kandinsky.settings import BEST as EMBED_BEST
from ..kandinsky.settings import SETTINGS as EMBED_SETTINGS
from .calibrate import ENDS, KEPT, TRIED
from .cases import FEATURES
from .rows import BEST, TOLD, Row
from .tables import UNSTEERED, WORDED, Table

if TYPE_CHECKING:
    from .calibrate import Effects
    from .heat import Heat
    from .name_features import Names


INTRODUCTION = """# Evidence: does steering change what it should, and only that?

Made by `make evidence`, on the Shapes models that come with the pack; every number in the tables is that command's.

**How.** For each ordered pair of words of one kind (30 of colour), features are found the way TopActivatingFeatures
finds them: the prompt "<target> square center big grey" against the baseline "<source> square center big grey" (other
kinds alike, the word in its place), eight seeds, eight steps, ranked by difference of the mean, at most {features}
features at each place, and nothing else. Where a row says "found with 8 prompts", from eight pairs of prompts that
differ in all other kinds too, one seed each; "ranked by effect" takes the best of 32 candidates. They then steer
pictures of prompts that training never saw and that say the source ({pictures} pictures a row). A rule-based reader
judges each picture. *changed*: it shows the target. *kept*: what the change is not about reads the same as in the
unsteered picture of the same prompt and seed; where the change is one of colour or background, the shape counts as
kept only if its outline overlaps the unsteered one's by at least 0.85 (intersection over union; a circle and a square
of one area reach 0.84). *strict*: changed, and everything else kept.

**Controls.** Unsteered. The ceiling: nothing is steered, but the prompt says the target. *random*: every token moves
exactly as far as the steering moves it, but along one random direction (measured for the best row of each place).
*No SAE*: the difference between the mean activations of the same two prompts is added to every token; in the text
token by token, in the picture's stream one vector for all.

‖Δ‖/‖x‖ is the mean over tokens, places and steps. Where several places are steered, the strength is that of each place.
"On the shape" restricts the steering to the unsteered picture's shape, "where the heat is" to what FeatureHeatmap marks
for the source's features on it; everything else acts on every token of its stream.
"""
EMBED_TEXT = """The same changes of colour, prompts, seeds and judge, in the small Kandinsky: the prompt goes through
the prior, the embedding is edited once, the decoder draws it (64 × 64 pixels) and sees nothing else; {pictures}
pictures a row. Features come from embeddings of the same two prompts, four seeds, at most 8 from each side; in the rows
"eight prompts" from eight pairs that differ in shape, place, size and background too, four seeds each
(lab/kandinsky/settings.py lists them). "No SAE" adds the difference between the mean embeddings of the same examples.
"Fixed level" inserts the features' mean, however strongly the source fires.
"""
LEVELS_TEXT = """The same prompts and changes of colour at both levels, each with the strength of `swap` that was picked
beforehand. The levels belong to two models, trained on the same drawings and prompts, so compare each with its own
ceiling (the row "the prompt says the target's word").
"""
LESSONS = Path(__file__).parent / "lessons.md"


def write_report(tables: Mapping[str, Table], sections: Sequence[str], path: Path) -> None:
    """`tables` by kind of word, and the one of "kandinsky"; `sections` are ready."""
    colour, embeds = tables["colour"], tables["kandinsky"]
    parts = [INTRODUCTION.format(features=FEATURES, pictures=colour.pictures), _saes(), _drawn(colour, embeds)]
    parts.append(_section("Inside FLUX: changes of colour", "", colour))
    parts += [_section(f"Inside FLUX: changes of {kind}", "", tables[kind]) for kind in SLOTS if kind != "colour"]
    parts.append(
        _section(
            "Before the generator: the embedding that Kandinsky's decoder draws",
            EMBED_TEXT.format(pictures=embeds.pictures),
            embeds,
        )
    )
    parts += [_levels(colour, embeds), *sections, LESSONS.read_text(encoding="utf-8")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def _section(title: str, text: str, table: Table) -> str:
    return "\n".join([f"## {title}", "", *([text] if text else []), table.markdown()])


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


def _drawn(inside: Table, before: Table) -> str:
    return (
        "## The models, unsteered\n\nPictures that show what their (held-out) prompt says: "
        f"the FLUX {inside.drawn()}; the Kandinsky {before.drawn()}.\n"
    )


def _levels(inside: Table, before: Table) -> str:
    """The two levels side by side, each with the method that was set beforehand."""
    lines = []
    for level, table, best in (
        ("inside FLUX", inside, (TOLD["text"], str(Row("text", "swap", BEST)))),
        ("before the generator", before, ("image_embeds", EMBED_SETTINGS[EMBED_BEST].what)),
    ):
        chosen = (("none", UNSTEERED), ("none", WORDED), best)
        lines += [replace(line, where=level) for line in table.lines if (line.where, line.what) in chosen]
    return _section("Level against level", LEVELS_TEXT, Table("colour", lines))


NAMES_TEXT = """As LabelFeatures names them: each of the 20 words in 48 training prompts, 8 steps. Then, on other
prompts and seeds, what features really react to. *Specific*: fires on at least half of one word's pictures, and on
average at most a quarter as strongly for any other word of that kind; and so for one kind only, colour, shape or size.
*Unspecific*: fires for at least two words of every kind, half as strongly or more. Features in between are not counted.
"""
HEAT_TEXT = """As FeatureHeatmap looks: drawings of all held-out prompts, noised back to sigma 0.5, one call of the
FLUX; the feature that fires most for the drawing's colour (chosen on training drawings), from 0.3 of its largest
activation on. Mean intersection over union with the shape. A token is 16 pixels wide, so no heat can follow an outline
more closely than the last column does.
"""
CALIBRATION_TEXT = """\
As CalibrateStrength does it: for each of the 30 changes of colour, the one feature that fires for the target furthest
above all other colours is calibrated on one held-out prompt of the source's colour, 4 steps; then it steers
{pictures} other held-out prompts, 8 steps. *changed*: another colour than the prompt's. *target*: the feature's own.
`swap` takes out the 8 features that the source has over the target. The random row moves every token as far as
`clear` does, along one random direction. Place, size and background: as the prompt says.
"""


def heat_section(found: Mapping[str, Heat]) -> str:
    lines = ["## Where features fire: heat against the shape", "", HEAT_TEXT]
    lines += ["| SAE | own colour's feature | another colour's | the shape in whole tokens |", "|---|---|---|---|"]
    lines += [f"| {name} | {heat.own:.2f} | {heat.other:.2f} | {heat.ceiling:.2f} |" for name, heat in found.items()]
    return "\n".join([*lines, ""])


def names_section(found: Mapping[str, Names]) -> str:
    head = "| SAE | features | named | specific | right word | and no other word | wrong word | unspecific | unclear |"
    lines = ["## Names: are they right?", "", NAMES_TEXT, head, "|---" * 9 + "|"]
    for name, names in found.items():
        specific, unspecific = max(names.specific, 1), max(names.unspecific, 1)
        lines.append(
            f"| {name} | {names.features} | {names.named} | {names.specific} | {names.right / specific:.0%} | "
            f"{names.alone / specific:.0%} | {names.wrong / specific:.0%} | {names.unspecific} | "
            f"{names.unclear / unspecific:.0%} |"
            if names.specific
            else f"| {name} | {names.features} | {names.named} | 0 | – | – | – | {names.unspecific} | "
            f"{names.unclear / unspecific:.0%} |"
        )
    return "\n".join([*lines, ""])


def calibration_section(found: Effects) -> str:
    pictures = found[TRIED[0], ENDS[0]].pictures
    head = "| method | strength | ranges found | mean | ‖Δ‖/‖x‖ | changed | target | place | size | background |"
    lines = ["## Calibrated strengths: what 1.0 and the ends do", "", CALIBRATION_TEXT.format(pictures=pictures)]
    lines += [head, "|---" * 10 + "|"]
    names = {"low": "visible", "clear": "**clear (1.0)**", "high": "upper end", "random": "random, as clear"}
    for method in TRIED:
        for end, called in names.items():
            effect = found.get((method, end))
            if effect is None:
                continue
            shares = [effect.changed, effect.target, *(effect.kept[slot] for slot in KEPT)]
            strength, ratio = effect.strength / effect.runs, effect.ratio / effect.runs
            told = " | ".join(f"{count / effect.pictures:.0%}" for count in shares)
            lines.append(f"| {method} | {called} | {effect.runs} of 30 | {strength:.2f} | {ratio:.2f} | {told} |")
    return "\n".join([*lines, ""])
