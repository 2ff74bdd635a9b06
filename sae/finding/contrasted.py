"""Directions without an SAE: what two sides differ in, as a dictionary with its features and a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..dictionary.contrast import AGREE, CLEAR, SIDES, Contrast, Side, Way
from ..dictionary.owner import TrainedOn
from ..dictionary.sae_set import AnySae, SaeSet
from ..places.moment import OnProgress
from ..places.site import Site
from ..steering.edits import FeatureList
from .features import RankedFeature, feature_list
from .two_sides import Runs, Show, contrast_of_texts, find_contrasts, measure, measure_texts, rows_of

Told = Mapping[Side, tuple[str, ...]]  # what is shown on each side: prompts, or words for it
LONGEST_NAME = 24  # characters of a side in a dictionary's name


@dataclass(frozen=True)
class Contrasted:
    """A dictionary of contrast directions, each side's features in it, and what is told of them."""

    sae: AnySae
    rows: Mapping[Side, list[RankedFeature]]
    table: str

    def features(self, side: Side) -> FeatureList:
        return feature_list(self.rows[side], self.sae.owner)


def contrasted(
    trained_on: TrainedOn, sites: Sequence[Site], show: Show, runs: Runs, told: Told, on_progress: OnProgress
) -> Contrasted:
    """What the two sides differ in at each site; places where they do not are left out.

    Raises ValueError where they differ nowhere by more than chance gives.
    """
    found = dict(zip(sites, find_contrasts(show, sites, runs, on_progress), strict=True))
    prompts, name = (told["positive"], told["negative"]), _name(told)
    saes = {
        site: contrast.dictionary(site, f"{name}/{site.name}", trained_on, prompts)
        for site, contrast in found.items()
        if not contrast.is_nothing
    }
    if not saes:
        raise ValueError(_nothing(found))
    measure(show, sites, saes, runs, on_progress)
    sae: AnySae = SaeSet(saes.values(), name) if len(saes) > 1 else next(iter(saes.values()))
    return Contrasted(sae, {side: rows_of(sae, side) for side in SIDES}, _table(name, found, runs))


def contrasted_tokens(
    texts: Mapping[Side, Sequence[Tensor]], place: str, told: Told, otherwise: str = "more pairs", way: Way = "auto"
) -> Contrasted:
    """What the two sides differ in, of pairs of texts' or pictures' tokens (tokens, d_in) in one embedding.

    `place` names the embedding, and `otherwise` what to try where they do not differ. Raises ValueError for
    embeddings of two encoders, and where the sides do not differ by more than chance gives.
    """
    widths = {tokens.shape[-1] for side in SIDES for tokens in texts[side]}
    if len(widths) > 1:
        raise ValueError(
            f"positive, negative: their embeddings are {' and '.join(map(str, sorted(widths)))} wide, of which there "
            "is no difference; encode all with one CLIP."
        )
    runs, name = len(texts["positive"]), _name(told)
    found = contrast_of_texts(texts, way)
    if found.is_nothing:
        raise ValueError(_nothing({place: found}, otherwise))
    sae = found.dictionary(None, f"{name}/{place}", None, (told["positive"], told["negative"]))
    measure_texts(sae, texts)
    table = _table(name, {place: found}, Runs(runs, runs, True, runs, way), "two pairs of prompts")
    return Contrasted(sae, {side: rows_of(sae, side) for side in SIDES}, table)


def _name(told: Told) -> str:
    """Such as `contrast blue_square - red_square`, without what a file's name may not have."""
    sides = ["_".join(re.findall(r"\w+", told[side][0] if told[side] else ""))[:LONGEST_NAME] for side in SIDES]
    return f"contrast {' - '.join(sides)}" if all(sides) else f"contrast {sides[0]}".strip()


def _table(name: str, found: Mapping[Any, Contrast], runs: Runs, more: str = "two seeds") -> str:
    width = max(len(str(site)) for site in found)
    each = str(runs.positive) if runs.positive == runs.negative else f"{runs.positive} and {runs.negative}"
    lines = [
        f"{name}{_told_way(runs.way)}: {each} runs of each side; nothing is what differs by less than {CLEAR:g} times "
        "what chance gives",
        f"{'place':<{width}} {'difference':>10} {'chance':>9} {'times':>7} {'consistency':>12}",
    ]
    for site, contrast in found.items():
        floor, times = contrast.floor, contrast.times
        known = f"{'unknown':>9} {'':>7}" if floor is None else f"{floor:>9.3g} {times:>7.3g}"
        agreed = "" if contrast.consistency is None else f"{contrast.consistency:.2f}"
        nothing = "  nothing" if contrast.is_nothing else ""
        lines.append(f"{site!s:<{width}} {contrast.norm:>10.3g} {known} {agreed:>12}{nothing}".rstrip())
    if any(contrast.floor is None for contrast in found.values()):
        lines.append(f"One run of a side tells nothing of chance: take {more} or more.")
    return "\n".join(lines + _disagreement(found))


def _disagreement(found: Mapping[Any, Contrast]) -> list[str]:
    """A sentence where the pairs of a place differ in more than one thing."""
    clear = [
        (one.consistency, site) for site, one in found.items() if one.consistency is not None and not one.is_nothing
    ]
    consistency, worst = min(clear, key=lambda entry: entry[0], default=(1.0, None))
    if consistency >= AGREE:
        return []
    return [
        f"Pairs disagree at {worst}: their differences' mean cosine with the direction is {consistency:.2f}, below "
        f"{AGREE:g}, so it holds something else too; use pairs that differ in one thing."
    ]


def _told_way(way: Way) -> str:
    return "" if way == "auto" else f", {way}"


def _nothing(found: Mapping[Any, Contrast], more: str = "more seeds, or another location") -> str:
    site, best = max(found.items(), key=lambda entry: entry[1].times or 0)
    where = str(site) if len(found) == 1 else f"any of {len(found)} places"
    if best.norm == 0:
        return f"positive, negative: there is no difference between them at {where}; use sides that differ."
    return (
        f"positive, negative: nothing tells them apart at {where}: they differ by {best.norm:.3g}, and chance alone "
        f"gives {best.floor:.3g}; use sides that differ more, {more}."
    )
