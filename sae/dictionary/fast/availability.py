"""Whether Triton's kernels may be used: they are there on some systems, and need a compiler that may be missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

WIDEST = 16_384  # numbers of a row that a program can hold


def works(attempt: Callable[[], bool]) -> bool:
    """What an attempt on a few numbers found. Triton says in many ways that it lacks something; torch always works.

    Where there is no memory even for these, nothing is found: the error goes on to the host, which may make room.
    """
    try:
        with torch.no_grad():
            return attempt()
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001
        return False


def have_kernels(weight: Tensor) -> bool:
    """Whether there are kernels for TopK with such a matrix (rows, d)."""
    return weight.is_cuda and weight.shape[1] <= WIDEST and weight.is_contiguous() and _work(weight.device)


def sums_of_rows(table: Tensor, rows: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    """(len(starts), d) float32: for each part of the list, the weighted sum of its rows of `table` (F, d)."""
    from . import kernels

    return kernels.decode(table, rows, weights, starts)


@lru_cache
def _work(device: torch.device) -> bool:
    return works(lambda: _attempt(device))


def _attempt(device: torch.device) -> bool:
    from . import kernels

    rows = torch.ones(2, 16, device=device)
    first, none = torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(2, 2, device=device)
    lists = kernels.Lists(2, 4, device)
    lists.keep(slice(0, 2), 0, rows @ rows.T, none, none, torch.full((2,), 16.0, device=device), {})
    codes, features = lists.codes(rows, rows, {})
    sums = kernels.decode(rows, first, torch.ones(1, device=device), first)
    found = codes[:, :2], sums, features[0].tolist()
    return bool((found[0] == 16).all() and (found[1] == 1).all()) and found[2] == [0, 1, 2, 2]
