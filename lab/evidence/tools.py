"""The evidence's sections on tools: where features fire, are the names right, what do calibrated strengths mean?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .calibrate import ENDS, KEPT, TRIED

if TYPE_CHECKING:
    from .calibrate import Effects
    from .heat import Heat
    from .name_features import Names

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
