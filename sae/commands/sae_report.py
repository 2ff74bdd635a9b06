"""What the commands measure of an SAE, and the report they write."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.owner import TrainedOn
from ..dictionary.statistics import FeatureStatistics
from ..drawing.charts import bars, curve
from ..files.whole import told_when_unwritable
from ..finding.fit import Fit
from ..finding.recovery import Outputs, prediction_recovered, steerability
from ..formats import load
from ..training.card import HIGHEST, LOWEST, Card, evaluate, make_card, readme, rows_of
from ..training.finished_sae import export_topk
from ..training.source import ModelSource, Source, sift
from ..training.topk import TopKModel

README, REPORT = "README.md", "report.json"
DENSITIES, CURVE = "densities.png", "curve.png"


def held_out_tokens(source: Source, name: str, wanted: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks (n, d_in) with noise levels (n,) of tokens that training never gives, `wanted` in all."""
    number = seen = 0
    while seen < wanted:
        chunk, _ = sift(source.held_out(number)[name], name)
        rows = chunk.tokens[: wanted - seen]
        number, seen = number + 1, seen + len(rows)
        yield rows.float(), chunk.sigma[: len(rows)]


def measured_card(
    sae: SparseAutoencoder,
    name: str,
    fit: Fit,
    statistics: FeatureStatistics,
    source: Source,
    tried_features: int,
    trained: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    outputs: Outputs | None = None,
) -> Card:
    """The report, with what the SAE is worth to the model: that of `outputs`, else the source's, if it has one."""
    outputs, site = outputs or outputs_of(source), sae.site
    told: dict[str, Any] = {"trained": trained or {}, "source": about or dict(source.about)}
    if outputs is not None and site is not None:
        told["prediction_recovered"] = prediction_recovered(outputs, sae, site)
        if tried_features:
            told["steerability"], told["features_tried"] = steerability(outputs, sae, site, tried_features)
    return make_card(sae, name, fit, statistics, **told)


def write_result(
    model: TopKModel,
    name: str,
    folder: Path,
    source: Source,
    held_out: int,
    tried_features: int,
    about: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    log: Path | None = None,
    outputs: Outputs | None = None,
    **more: Any,
) -> tuple[Path, Card]:
    """Writes the SAE trained at the place `name` of a source, with what it does on `held_out` tokens it has not seen.

    `about` tells where the tokens come from; `more` is told beside its configuration. Returns the weight file and the
    report.
    """
    fit, statistics = evaluate(model, (tokens for tokens, _ in held_out_tokens(source, name, held_out)))
    path = export_topk(model.cpu(), folder, statistics, dtype, source.sites[name], _trained_on(about))
    trained = {key: value for key, value in asdict(model.config).items() if value not in (None, ())} | more
    card = measured_card(load(path), name, fit, statistics, source, tried_features, trained, about, outputs)
    write_card(card, folder, log)
    return path, card


def _trained_on(about: Mapping[str, Any]) -> TrainedOn | None:
    """The model, where a host told its family."""
    return TrainedOn(str(about["family"]), "", str(about["model"])) if "family" in about else None


def outputs_of(source: Source) -> Outputs | None:
    """The outputs of the model behind a source, None where there is none."""
    inner: Any = source
    while hasattr(inner, "source"):
        inner = inner.source
    return inner.model.outputs if isinstance(inner, ModelSource) else None


def densities_chart(card: Card) -> Image.Image:
    names = ["below", *(f"1e{power}" for power in range(LOWEST, HIGHEST))]
    return bars(card.densities, names, "Features by their density: share of tokens, from")


def write_card(card: Card, folder: Path, log: Path | None = None) -> None:
    """README.md, report.json and the charts; with the log of the training its curve."""
    points = _points(log, card.name) if log is not None and log.is_file() else []
    pictures = {"How many features fire how often": DENSITIES}
    with told_when_unwritable(folder / README):
        folder.mkdir(parents=True, exist_ok=True)
        densities_chart(card).save(folder / DENSITIES)
        if points:
            steps, explained = zip(*points, strict=True)
            curve(steps, explained, "Explained variance of the batch, by step").save(folder / CURVE)
            pictures["Explained variance while it trained"] = CURVE
        (folder / README).write_text(readme(card, pictures), encoding="utf-8")
        (folder / REPORT).write_text(json.dumps(card.as_dict(), indent=2) + "\n", encoding="utf-8")


def table(card: Card) -> str:
    """The measured numbers for a terminal."""
    rows = rows_of(card)
    width = max(len(name) for name, _ in rows)
    return "\n".join([card.name, *(f"  {name.ljust(width)}  {value}" for name, value in rows)])


def _points(log: Path, site: str) -> list[tuple[float, float]]:
    with log.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("site") == site]
    return [(float(row["step"]), float(row["explained_variance"])) for row in rows]
