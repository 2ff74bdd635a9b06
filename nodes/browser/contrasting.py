"""Directions without an SAE, as the nodes ask for them: what two sides differ in, as a dictionary with its features."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher as Model
from comfy_api.latest import io

from ...sae.dictionary.contrast import CLEAR, SIDES, Contrast, Side
from ...sae.dictionary.origin import TrainedOn
from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.embeddings.hidden_states import tap_at
from ...sae.finding.features import RankedFeature, feature_list
from ...sae.finding.two_sides import Runs, Show, contrast_of_texts, find_contrasts, measure, measure_texts, rows_of
from ...sae.hosts.comfyui.embeddings import TOKENS, text_tokens
from ...sae.hosts.comfyui.identity import identity_of
from ...sae.hosts.comfyui.model import depth_of, family_of
from ...sae.places.moment import OnProgress
from ...sae.places.named_choices import Choice, sites_of
from ...sae.places.site import Site
from ...sae.steering.edits import FeatureList
from ..inputs.sockets import Sae, SaeFeatures
from .feature_results import table_of

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

    def tables(self, titles: Mapping[Side, str]) -> list[tuple[str, dict[str, Any]]]:
        """Of each side, as text and as the browser draws it."""
        return [table_of(self.sae, self.rows[side], titles[side]) for side in SIDES]


def sites_in(model: Model, location: str, stream: str, auto: Choice) -> list[Site]:
    return sites_of(family_of(model), depth_of(model), location, stream, auto)


def contrasted(
    model: Model, sites: Sequence[Site], show: Show, runs: Runs, told: Told, on_progress: OnProgress
) -> Contrasted:
    """What the two sides differ in at each site; places where they do not are left out.

    Raises ValueError where they differ nowhere by more than chance gives.
    """
    found = dict(zip(sites, find_contrasts(show, sites, runs, on_progress), strict=True))
    prompts, name = (told["positive"], told["negative"]), _name(told)
    trained = TrainedOn(family_of(model).name, identity=identity_of(model))
    saes = {
        site: contrast.dictionary(site, f"{name}/{place_name(site)}", trained, prompts)
        for site, contrast in found.items()
        if not contrast.is_nothing
    }
    if not saes:
        raise ValueError(_nothing(found))
    measure(show, sites, saes, runs, on_progress)
    sae: AnySae = SaeSet(saes.values(), name) if len(saes) > 1 else next(iter(saes.values()))
    return Contrasted(sae, {side: rows_of(sae, side) for side in SIDES}, _table(name, found, runs))


def contrasted_texts(conditionings: Mapping[Side, Sequence[Any]], tap: str, told: Told) -> Contrasted:
    """What the two sides differ in at a hidden state of the text's embedding, or with `all` in the whole of it.

    Raises ValueError for a tap that is not there, for texts of two encoders, and where the sides do not differ by more
    than chance gives.
    """
    texts = {side: [text_tokens(one, tap) for one in conditionings[side]] for side in SIDES}
    widths = {tokens.shape[-1] for side in SIDES for tokens in texts[side]}
    if len(widths) > 1:
        raise ValueError(
            f"positive, negative: their embeddings are {' and '.join(map(str, sorted(widths)))} wide, of which there "
            "is no difference; encode all with one CLIP."
        )
    place, runs = _embedding_name(conditionings["positive"][0], tap), len(texts["positive"])
    found, name = contrast_of_texts(texts), _name(told)
    if found.is_nothing:
        raise ValueError(_nothing({place: found}, "more pairs, or another tap"))
    sae = found.dictionary(None, f"{name}/{place}", None, (told["positive"], told["negative"]))
    measure_texts(sae, texts)
    table = _table(name, {place: found}, Runs(runs, runs, True, runs), "two pairs of prompts")
    return Contrasted(sae, {side: rows_of(sae, side) for side in SIDES}, table)


def _embedding_name(conditioning: Any, tap: str) -> str:
    """Such as token_embeddings-layer_17, from whose name `auto` knows hidden state 18 again."""
    at = tap_at(conditioning[0][0].shape[-1], tap)
    return TOKENS if at is None else f"{TOKENS}-layer_{at.layer - 1}"


def place_name(site: Site) -> str:
    """A site as names of files tell it, such as `transformer_blocks.0.attn-image`."""
    return f"{site.location}-{site.stream}"


def contrast_outputs() -> list[io.Output]:
    return [
        Sae.Output(
            display_name="sae",
            tooltip="The directions, as Load SAE gives an SAE: two features at each place, the positive side's and the "
            "negative side's. Of several places a set.",
        ),
        SaeFeatures.Output(display_name="features", tooltip="What the positive side has, ready to steer with."),
        SaeFeatures.Output(
            display_name="replaces", tooltip="What the negative side has, for swap; 1 is then the natural amount."
        ),
        io.String.Output(
            display_name="table", tooltip="Of each place, how far the sides are apart, and what chance alone gives."
        ),
    ]


def contrast_output(found: Contrasted) -> io.NodeOutput:
    """The four outputs; the node shows the table and both sides' features."""
    tables = found.tables({"positive": "Positive: what it has", "negative": "Negative: what it has"})
    shown = {"text": [found.table, *(text for text, _ in tables)], "sae_steering": [payload for _, payload in tables]}
    return io.NodeOutput(found.sae, found.features("positive"), found.features("negative"), found.table, ui=shown)


def _name(told: Told) -> str:
    """Such as `contrast blue_square - red_square`, without what a file's name may not have."""
    sides = ["_".join(re.findall(r"\w+", told[side][0] if told[side] else ""))[:LONGEST_NAME] for side in SIDES]
    return f"contrast {' - '.join(sides)}" if all(sides) else f"contrast {sides[0]}".strip()


def _table(name: str, found: Mapping[Any, Contrast], runs: Runs, more: str = "two seeds") -> str:
    width = max(len(str(site)) for site in found)
    each = str(runs.positive) if runs.positive == runs.negative else f"{runs.positive} and {runs.negative}"
    lines = [
        f"{name}: {each} runs of each side; nothing is what differs by less than {CLEAR:g} times what chance gives",
        f"{'place':<{width}} {'difference':>10} {'chance':>9} {'times':>7}",
    ]
    for site, contrast in found.items():
        floor, times = contrast.floor, contrast.times
        known = f"{'unknown':>9} {'':>7}" if floor is None else f"{floor:>9.3g} {times:>7.3g}"
        lines.append(f"{site!s:<{width}} {contrast.norm:>10.3g} {known}{'  nothing' if contrast.is_nothing else ''}")
    if any(contrast.floor is None for contrast in found.values()):
        lines.append(f"One run of a side tells nothing of chance: take {more} or more.")
    return "\n".join(lines)


def _nothing(found: Mapping[Any, Contrast], more: str = "more seeds, or another location") -> str:
    site, best = max(found.items(), key=lambda entry: entry[1].times or 0)
    where = str(site) if len(found) == 1 else f"any of {len(found)} places"
    if best.norm == 0:
        return f"positive, negative: there is no difference between them at {where}; use sides that differ."
    return (
        f"positive, negative: nothing tells them apart at {where}: they differ by {best.norm:.3g}, and chance alone "
        f"gives {best.floor:.3g}; use sides that differ more, {more}."
    )
