"""What will stand in a file, planned before anything large is in memory, and read matrix by matrix."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BufferedWriter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dictionary.weights import Weight
from ..files.safetensors_file import DTYPES

BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Matrix:
    """The SAE's encoder or decoder with each feature's row times its entry of `factors` (F,), float32."""

    weight: Weight
    dtype: torch.dtype  # as it will be stored
    factors: Tensor | None = None
    turned: bool = False  # stored as (d, F)

    def as_columns(self) -> Matrix:
        """The same, stored as (d, F)."""
        return replace(self, turned=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape[::-1] if self.turned else self.weight.shape

    def blocks(self) -> Iterator[Tensor]:
        """Blocks of rows from the first to the last, on the CPU. The matrix is in memory until they are through."""
        values = self.weight.whole().detach().cpu()
        if self.turned:
            values = values.T
        step = max(1, BLOCK_BYTES // (4 * values.shape[1]))
        for first in range(0, len(values), step):
            block = values[first : first + step]
            if self.factors is not None:
                factors = self.factors if self.turned else self.factors[first : first + step, None]
                block = block.float() * factors
            yield block.to(self.dtype).contiguous()


Stored = Tensor | Matrix


@dataclass(frozen=True)
class Layout:
    """The contents of a target's files."""

    tensors: Mapping[str, Stored]
    config: Mapping[str, Any] | None = None  # goes into a JSON file
    metadata: Mapping[str, str] = field(default_factory=dict)  # goes into the header of a safetensors file


def blocks_of(stored: Stored) -> Iterator[Tensor]:
    if isinstance(stored, Matrix):
        yield from stored.blocks()
    else:
        yield stored.detach().cpu().contiguous()


def bytes_of(stored: Stored) -> int:
    return torch.Size(stored.shape).numel() * stored.dtype.itemsize


Progress = Callable[[int, int], None]  # bytes done, bytes in all; may raise to stop
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(
    path: Path, suffix: str, tensors: Mapping[str, Stored], metadata: Mapping[str, str], progress: Progress | None
) -> None:
    """Writes a file of the kind that `suffix` names. ValueError where a value does not fit the type asked for."""
    count = _Count(sum(map(bytes_of, tensors.values())), progress)
    with path.open("wb") as file:
        if suffix == ".safetensors":
            _write_safetensors(file, tensors, metadata, count)
        else:
            _write_state_dict(file, {name: _whole(name, stored, count) for name, stored in tensors.items()})


class _Count:
    """Tells the progress, and first of all that nothing is done: a place to stop before anything is written."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.done, self.progress = total, 0, progress
        self.add(0)

    def add(self, size: int) -> None:
        self.done += size
        if self.progress is not None:
            self.progress(self.done, self.total)


def _write_safetensors(
    file: BufferedWriter, tensors: Mapping[str, Stored], metadata: Mapping[str, str], count: _Count
) -> None:
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # keeps every tensor aligned
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        start, end = end, end + bytes_of(tensors[name])
        dtype = _NAMES[tensors[name].dtype]
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        _write_blocks(file, name, tensors[name], count)


def _write_blocks(file: BufferedWriter, name: str, stored: Stored, count: _Count) -> None:
    """A function of its own, so that nothing holds on to a matrix when the next one is read."""
    for block in _checked(name, stored):
        file.write(block.view(-1).view(torch.uint8).numpy().data)
        count.add(block.nbytes)


def _write_state_dict(file: BufferedWriter, tensors: dict[str, Tensor]) -> None:
    try:
        torch.save(tensors, file)
    except RuntimeError as error:  # what torch makes of a write that fails
        raise OSError(errno.EIO, "the disk may be full") from error


def _whole(name: str, stored: Stored, count: _Count) -> Tensor:
    out = torch.empty(stored.shape, dtype=stored.dtype)
    first = 0
    for block in _checked(name, stored):
        if isinstance(stored, Matrix):
            out[first : first + len(block)] = block
            first += len(block)
        else:
            out.copy_(block)
        count.add(block.nbytes)
    return out


def _checked(name: str, stored: Stored) -> Iterator[Tensor]:
    for block in blocks_of(stored):
        if not block.isfinite().all():
            dtype = str(stored.dtype).removeprefix("torch.")
            limit = torch.finfo(stored.dtype).max
            raise ValueError(
                f"dtype: the SAE has values beyond {limit:g} in {name}, which {dtype} cannot hold; use "
                f"{'float32' if stored.dtype == torch.bfloat16 else 'bfloat16 or float32'}."
            )
        yield block
