"""Compares the pack's reading of a checkpoint with the case's own formulas."""

from __future__ import annotations

from pathlib import Path

import torch

from layouts import Case, D, F, draw
from sae.formats import load

IDS = [5, 30, 0]


def check_case(case: Case, folder: Path, sites: bool = True) -> None:
    """Codes of all and of single features, reconstruction, directions and site."""
    sae = load(case.write(folder), architecture=case.architecture)
    assert (sae.d_in, sae.d_sae) == (D, F)
    torch.manual_seed(21)
    x = draw(20, D, scale=2.0) + 0.5
    f, back = case.expected(x)
    assert (f != 0).any()
    close(sae.encode(x, case.sigma), f)
    close(sae.codes(x, IDS, case.sigma), f[:, IDS])
    close(sae.reconstruct(x, case.sigma), back)
    close(sae.direction(IDS), case.rows[IDS])
    if sites:
        assert (None if sae.site is None else str(sae.site)) == case.site
    only = load(case.write(folder), architecture=case.architecture)
    close(only.direction(IDS), case.rows[IDS])
    assert only.weights.materialised == (), "single rows need no side in memory"


def close(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=2e-5, atol=2e-5)
