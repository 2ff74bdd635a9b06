"""What the browser is told of features: plain JSON, in a node's ui output or from a route."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ...sae.dictionary.fingerprint import fingerprint
from ...sae.dictionary.sae_set import AnySae
from ...sae.dictionary.statistics import FeatureStatistics
from ...sae.finding.features import RankedFeature
from ...sae.known.labels import Label
from ...sae.known.notebook import Notebook, Pictures
from ...sae.known.ranges import Calibrations
from .server_memory import introduce

SIDE = 24  # of a thumbnail's grid at most


def sae_payload(sae: AnySae) -> dict[str, Any]:
    """Which SAE it is; the routes can tell of it from now on."""
    mark = fingerprint(sae)
    introduce(sae, mark)
    return {"kind": "sae", "fingerprint": mark, "sae": sae.name, "count": sae.d_sae, "owner": asdict(sae.owner)}


def table_payload(
    sae: AnySae,
    notebook: Notebook,
    ranked: Sequence[RankedFeature],
    title: str,
    ranges: Calibrations,
    heat: Mapping[int, Tensor] | None = None,
    places: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """The rows of a result; `heat` has a map (rows, columns) of features that fired on a picture.

    `places` has the place of each feature, where there are several.
    """
    labels = notebook.labels
    gallery, pictures = pictures_payload(notebook.pictures(row.feature for row in ranked))
    rows = [
        {
            **feature_payload(row.feature, labels.get(row.feature), None, ranges),
            **({"pictures": pictures[row.feature]} if row.feature in pictures else {}),
            "mean": row.mean_where_active,
            "max": row.max,
            "share": row.density,
            "value": row.value,
            "strength": row.specific,
            **({"place": places[row.feature]} if places else {}),
            **({} if row.effect is None else {"effect": row.effect}),
            **({"heat": heat_payload(heat[row.feature])} if heat and row.feature in heat else {}),
        }
        for row in ranked
    ]
    contrast, effect = (any(getattr(row, name) is not None for row in ranked) for name in ("difference", "effect"))
    kind = {"kind": "table", "title": title, "contrast": contrast, "effect": effect}
    return {**sae_payload(sae), **kind, "rows": rows, **({"gallery": gallery} if gallery else {})}


def feature_payload(
    feature: int, label: Label | None, statistics: FeatureStatistics | None, ranges: Calibrations
) -> dict[str, Any]:
    """One feature: what it is called, how strongly it fires, and its calibrations, the best first."""
    found: dict[str, Any] = {"feature": feature}
    if label is not None:
        found |= {"name": label.name, "note": label.note, "score": label.score}
    if statistics is not None:
        known = {"mean": statistics.mean, "max": statistics.max, "share": statistics.density}
        found |= {name: float(tensor[feature]) for name, tensor in known.items() if tensor is not None}
    calibrations = [asdict(entries[feature]) for entries in ranges.values() if feature in entries]
    return {**found, **({"calibrations": calibrations} if calibrations else {})}


def pictures_payload(pictures: Pictures) -> tuple[dict[str, str], dict[int, list[Any]]]:
    """The pictures by name, as data URLs, and of each feature that has some [name, strength, spot] each."""
    urls = {
        name: f"data:image/webp;base64,{base64.b64encode(data).decode()}" for name, data in pictures.encoded.items()
    }
    return urls, {feature: [list(row) for row in rows] for feature, rows in pictures.shown.items()}


def heat_payload(heat: Tensor) -> dict[str, Any]:
    """A map (rows, columns) as bytes, 255 where it is largest; large ones are thinned out."""
    step = -(-max(heat.shape) // SIDE)
    small = heat[::step, ::step].float().cpu()
    values = (255 * small / small.max().clamp_min(1e-12)).round().byte()
    data = base64.b64encode(values.contiguous().numpy().tobytes()).decode()
    return {"rows": values.shape[0], "columns": values.shape[1], "data": data}
