"""What the nodes that find features give and show: a list to steer with, a table and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ...sae.dictionary.contrast import SIDES, WAYS
from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.drawing.charts import feature_chart
from ...sae.finding.contrasted import Contrasted
from ...sae.finding.features import RANKINGS, RankedFeature, feature_list, feature_table
from ...sae.hosts.comfyui.own_folders import notebooks
from ...sae.known.notebook import Notebook
from ...sae.known.ranges import Setting
from ..inputs.sockets import Sae, SaeFeatures
from .payloads import table_payload

if TYPE_CHECKING:
    from ...sae.hosts.comfyui.contrasting import Contrasted


def count_input() -> io.Int.Input:
    return io.Int.Input(
        "count",
        default=10,
        min=1,
        max=200,
        step=1,
        tooltip="How many features to list at most; of a set at each place.",
    )


def rank_input(*more: str, tooltip: str = "") -> io.Combo.Input:
    told = "mean or max activation over all tokens, or frequency: the share of tokens where it fires."
    return io.Combo.Input("rank_by", options=[*RANKINGS, *more], default="mean", tooltip=f"{told} {tooltip}".strip())


def feature_outputs() -> list[io.Output]:
    return [
        SaeFeatures.Output(
            display_name="features",
            tooltip="The features found, ready to steer with. With a baseline, each has as strength the share "
            "of its activation that the baseline lacks; without one, 1.",
        ),
        io.String.Output(
            display_name="table", tooltip="Feature, mean, max, share of tokens, difference; of a set, place."
        ),
        io.Image.Output(display_name="chart", tooltip="The same as a bar chart."),
    ]


def found_features(
    sae: AnySae,
    ranked: list[RankedFeature],
    place: str,
    *lines: str,
    heat: Mapping[int, Tensor] | None = None,
    setting: Setting | None = None,
) -> io.NodeOutput:
    """The three outputs; the node shows the table, with a thumbnail of where it has `heat`, and `lines`.

    With a `setting` the table offers the ranges that were measured in it. Of a set each row has its place.
    """
    title = f"{sae.name} {place}"
    notebook = notebooks().of(sae)
    text, payload = table_of(sae, notebook, ranked, title, lines, heat, setting)
    shown = {"text": [text, *payload["lines"]], "sae_steering": [payload]}
    chart = feature_chart(ranked, title, notebook.names)
    return io.NodeOutput(feature_list(ranked, sae.owner), text, chart, ui=shown)


def table_of(
    sae: AnySae,
    notebook: Notebook,
    ranked: Sequence[RankedFeature],
    title: str,
    lines: Sequence[str] = (),
    heat: Mapping[int, Tensor] | None = None,
    setting: Setting | None = None,
) -> tuple[str, dict[str, Any]]:
    """The table as text, and as the browser draws it; as for `found_features`."""
    places = None
    if isinstance(sae, SaeSet):
        places = {row.feature: str(sae.member_of(row.feature).site) for row in ranked}
    features = [row.feature for row in ranked]
    ranges, warnings = ({}, []) if setting is None else notebook.offered(setting, only=features)
    told = [*filter(None, lines), *warnings]
    payload = {**table_payload(sae, notebook, ranked, title, ranges, heat, places), "lines": told}
    return feature_table(ranked, title, notebook.names, places), payload


def gallery_input() -> io.Vae.Input:
    return io.Vae.Input(
        "gallery",
        optional=True,
        tooltip="A VAE: the pictures of the short sampling are kept in the SAE's gallery, and tables show on which of "
        "them a feature fires most, and where.",
    )


def contrast_way_input() -> io.Combo.Input:
    return io.Combo.Input(
        "contrast_by",
        options=list(WAYS),
        default="auto",
        optional=True,
        advanced=True,
        tooltip="How a direction is made of two sides: mean, their difference; whitened, the same, but where it acts "
        "is read past how tokens vary anyway; pca, along the main direction of the differences of pairs. "
        "auto: whitened where the text enters, else mean.",
    )


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
    notebook, titles = (
        notebooks().of(found.sae),
        {"positive": "Positive: what it has", "negative": "Negative: what it has"},
    )
    tables = [table_of(found.sae, notebook, found.rows[side], titles[side]) for side in SIDES]
    shown = {"text": [found.table, *(text for text, _ in tables)], "sae_steering": [payload for _, payload in tables]}
    return io.NodeOutput(found.sae, found.features("positive"), found.features("negative"), found.table, ui=shown)
