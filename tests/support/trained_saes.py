"""Small SAEs of each architecture that is trained here, and their codes as their training computes them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from export_cases import D, F, K, tokens
from sae.export import export
from sae.formats import load
from sae.training.config import TopKConfig
from sae.training.finished_sae import export_topk
from sae.training.topk import TopKModel
from sae.training.trainer import TopKTrainer

TRAINED = ("topk", "batchtopk", "matryoshka")
STEPS, BATCH = 60, 64


@cache
def trained(architecture: str) -> TopKModel:
    config = TopKConfig(D, F, K, STEPS, BATCH, 1e-2, warmup_steps=5, architecture=architecture)
    return TopKTrainer(config).fit(_batches())


def _batches() -> Iterator[Tensor]:
    """Sums of 3 of 20 directions, away from zero and larger than 1."""
    random = torch.Generator().manual_seed(23)
    directions = torch.randn(20, D, generator=random)
    while True:
        codes = torch.rand(BATCH, 20, generator=random)
        kept = codes >= codes.topk(3, dim=1).values[:, -1:]
        yield (codes * kept) @ directions + 0.5


def write_trained(folder: Path, target: str) -> None:
    """FOLDER/NAME of each, in another layout, by way of the file that training writes."""
    for name in TRAINED:
        own = export_topk(trained(name), folder.with_name(f"{folder.name}, as trained") / name)
        export(load(own), folder / trained_name(name), target)


def trained_name(architecture: str) -> str:
    return f"trained {architecture}"


def check_trained(architecture: str, found: dict[str, Tensor]) -> None:
    """What another library computed of `tokens()`: f (n, F) and xhat (n, D)."""
    model, x = trained(architecture), tokens()
    with torch.no_grad():
        codes, rebuilt = model.encode(x).to_dense(F), model(x)
    assert 0.02 < (codes > 0).float().mean() < 0.5
    assert (found["f"] - codes).abs().max() < 1e-5 * codes.max()
    assert (found["xhat"] - rebuilt).abs().max() < 1e-5 * rebuilt.abs().max()
