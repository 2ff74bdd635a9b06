"""What the nodes that find features give and show: a list to steer with, a table and a chart."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.latest import io
from torch import Tensor

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.fingerprint import fingerprint
from ...sae.drawing.chart import feature_chart
from ...sae.finding.features import RANKINGS, RankedFeature, feature_list, feature_table
from ...sae.steering.measured import Setting
from .feature_names import names_of
from .feature_payload import table_payload
from .feature_ranges import offered
from .sockets import SaeFeatures


def count_input() -> io.Int.Input:
    return io.Int.Input("count", default=10, min=1, max=200, step=1, tooltip="How many features to list at most.")


def rank_input() -> io.Combo.Input:
    return io.Combo.Input(
        "rank_by",
        options=list(RANKINGS),
        default="mean",
        tooltip="mean or max activation over all tokens, or frequency: the share of tokens where it fires.",
    )


def feature_outputs() -> list[io.Output]:
    return [
        SaeFeatures.Output(
            display_name="features",
            tooltip="The features found, ready to steer with. With a baseline, each has as strength the share "
            "of its activation that the baseline lacks; without one, 1.",
        ),
        io.String.Output(display_name="table", tooltip="Feature, mean, max, share of tokens, difference."),
        io.Image.Output(display_name="chart", tooltip="The same as a bar chart."),
    ]


def found_features(
    sae: SparseAutoencoder,
    ranked: list[RankedFeature],
    place: str,
    *lines: str,
    heat: Mapping[int, Tensor] | None = None,
    setting: Setting | None = None,
) -> io.NodeOutput:
    """The three outputs; the node shows the table, with a thumbnail of where it has `heat`, and `lines`.

    With a `setting` the table offers the ranges that were measured in it.
    """
    title, names = f"{sae.name} {place}", names_of(sae)
    table, chart = feature_table(ranked, title, names), feature_chart(ranked, title, names)
    features = [row.feature for row in ranked]
    ranges, warnings = ({}, []) if setting is None else offered(fingerprint(sae), setting, only=features)
    told = [*filter(None, lines), *warnings]
    payload = {**table_payload(sae, ranked, title, ranges, heat), "lines": told}
    shown = {"text": [table, *told], "sae_steering": [payload]}
    return io.NodeOutput(feature_list(ranked, sae.owner), table, chart, ui=shown)
