"""Tensors that are read when they are asked for: from a safetensors file, or from memory.

Files are read with plain seeks, not through a memory map: a column of a row-major matrix touches every row, and the
kernel maps 64 KB around each touched page, 200 MB for one column of a 49,152 × 3,072 decoder.
Header layout: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCK_BYTES = 32 * 2**20  # largest scratch buffer while reading
CHECKED_ELEMENTS = 2**20  # looked at in one go for NaN
MERGE_GAP_BYTES = 4096  # reading over a gap of this size costs less than another seek
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
LFS_MARK = b"version https://git-lfs"


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None: a type that holds no SAE weights, such as an integer
    start: int = 0  # offset of the first byte in the file

    @property
    def row_length(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class TensorSource(ABC):
    """Named floating point tensors, read in the stored type. What is read is checked for NaN and infinite values."""

    label: str  # names the file in messages
    infos: Mapping[str, TensorInfo]
    bytes_read: int = 0  # bytes of tensor data read so far

    def rows(self, key: str, ids: Sequence[int]) -> Tensor:
        """(len(ids), ...): the asked rows (first dimension)."""
        wanted = sorted(set(ids))
        runs = [self._read_rows(key, first, last + 1) for first, last in _runs(wanted, gap=1)]
        if not runs:
            return torch.empty((0, *self.infos[key].shape[1:]), dtype=self.infos[key].dtype)
        return self._checked(key, _in_order(torch.cat(runs), wanted, ids, dim=0))

    def columns(self, key: str, ids: Sequence[int]) -> Tensor:
        """(rows, len(ids)): the asked columns of a matrix."""
        wanted = sorted(set(ids))
        if not wanted:
            return torch.empty((self.infos[key].shape[0], 0), dtype=self.infos[key].dtype)
        return self._checked(key, _in_order(self._read_columns(key, wanted), wanted, ids, dim=1))

    def whole(self, key: str) -> Tensor:
        """The whole tensor."""
        return self._checked(key, self._read_rows(key, 0, self.infos[key].shape[0] if self.infos[key].shape else 1))

    def blocks(self, key: str) -> Iterator[tuple[int, Tensor]]:
        """(first row, block of rows) over the whole tensor, each block at most BLOCK_BYTES large."""
        count = self.infos[key].shape[0]
        step = max(1, BLOCK_BYTES // max(1, self.infos[key].row_length * self._itemsize(key)))
        for first in range(0, count, step):
            yield first, self._checked(key, self._read_rows(key, first, min(first + step, count)))

    @abstractmethod
    def _read_rows(self, key: str, start: int, stop: int) -> Tensor: ...

    @abstractmethod
    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor: ...

    def _itemsize(self, key: str) -> int:
        return self.stored_dtype(key).itemsize

    def stored_dtype(self, key: str) -> torch.dtype:
        dtype = self.infos[key].dtype
        if dtype is None:
            raise ValueError(
                f"{self.label}: the tensor {key!r} does not hold floating point numbers; SAE weights are accepted in "
                f"{', '.join(DTYPES)}."
            )
        return dtype

    def _checked(self, key: str, values: Tensor) -> Tensor:
        if not _all_finite(values):
            raise ValueError(
                f"{self.label}: the tensor {key!r} holds NaN or infinite values; only finite weights are accepted, so "
                f"download or export the file again."
            )
        return values


class TensorMemory(TensorSource):
    """Tensors that are already in memory, such as those of a trainer. They are not copied."""

    def __init__(self, tensors: Mapping[str, Tensor], label: str = "SAE in memory") -> None:
        self.label = label
        self.tensors = {key: tensor.detach() for key, tensor in tensors.items()}
        self.infos = {
            key: TensorInfo(tuple(tensor.shape), tensor.dtype if tensor.dtype in DTYPES.values() else None)
            for key, tensor in tensors.items()
        }

    def _read_rows(self, key: str, start: int, stop: int) -> Tensor:
        tensor = self.tensors[key]
        part = tensor[start:stop] if tensor.ndim else tensor
        self.bytes_read += part.nbytes
        return part

    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor:
        part = self.tensors[key][:, list(ids)]
        self.bytes_read += part.nbytes
        return part


class TensorFile(TensorSource):
    """The tensors of a safetensors file. Only the header is read at first; the file is not kept open."""

    def __init__(self, path: Path, label: str | None = None) -> None:
        """Raises ValueError when the file is gone, cut off, a Git LFS pointer or not in the safetensors format."""
        self.path = path
        self.label = label or path.name
        self._signature: tuple[int, int] | None = None
        with self._open() as file:
            self.infos = self._read_header(file)

    def _open(self) -> FileIO:
        try:
            file = FileIO(self.path)
        except OSError as error:
            raise ValueError(
                f"{self.label}: the file cannot be opened ({error.strerror}); it may have been removed after it was "
                f"listed, so choose a file that is there."
            ) from error
        stat = os.fstat(file.fileno())
        signature = (stat.st_size, stat.st_mtime_ns)
        if self._signature not in (None, signature):
            file.close()
            raise ValueError(f"{self.label}: the file has changed since it was loaded; load the SAE again.")
        self._signature = signature
        return file

    def _read_header(self, file: FileIO) -> dict[str, TensorInfo]:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(LFS_MARK))
        if start == LFS_MARK:
            raise ValueError(
                f"{self.label}: this is a Git LFS pointer of {size} bytes, not the weights; run 'git lfs pull' or "
                f"download the file itself."
            )
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(
                f"{self.label}: this is not a complete safetensors file ({size} bytes); download or export it again."
            )
        file.seek(8)
        try:
            entries = json.loads(file.read(length))
            infos, end = _parse_header(entries, 8 + length)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self.label}: the header cannot be read ({type(error).__name__}); a safetensors file is accepted."
            ) from error
        if size != end:
            fault = "is cut off" if size < end else "is too long"
            raise ValueError(
                f"{self.label}: the file {fault}: {size} bytes, but its header describes {end}; download it again."
            )
        return infos

    def _read_rows(self, key: str, start: int, stop: int) -> Tensor:
        info = self.infos[key]
        dtype = self.stored_dtype(key)
        values = torch.empty((stop - start, *info.shape[1:]) if info.shape else (), dtype=dtype)
        with self._open() as file:
            self._fill(file, info.start + start * info.row_length * dtype.itemsize, _bytes_of(values))
        self.bytes_read += values.nbytes
        return values

    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor:
        info = self.infos[key]
        dtype = self.stored_dtype(key)
        pieces = []
        with self._open() as file:
            for first, last in _runs(ids, gap=MERGE_GAP_BYTES // dtype.itemsize):
                picked = torch.tensor([i - first for i in ids if first <= i <= last])
                pieces.append(self._read_strip(file, info, dtype, first, last + 1, picked))
        return torch.cat(pieces, dim=1)

    def _read_strip(
        self, file: FileIO, info: TensorInfo, dtype: torch.dtype, first: int, stop: int, picked: Tensor
    ) -> Tensor:
        """(rows, len(picked)): the columns `first + picked`; columns first..stop-1 of each row are read in one go."""
        count, width = info.shape
        strip = (stop - first) * dtype.itemsize
        step = max(1, BLOCK_BYTES // strip)
        out = torch.empty((count, len(picked)), dtype=dtype)
        for begin in range(0, count, step):
            block = torch.empty((min(step, count - begin), stop - first), dtype=dtype)
            view = _bytes_of(block)
            offset = info.start + (begin * width + first) * dtype.itemsize
            _announce(file, offset, width * dtype.itemsize, strip, len(block))
            for place in range(0, len(view), strip):
                file.seek(offset)
                if file.readinto(view[place : place + strip]) != strip:  # cut short: read on, or say that it ended
                    self._fill(file, offset, view[place : place + strip])
                offset += width * dtype.itemsize
            self.bytes_read += len(view)
            out[begin : begin + len(block)] = block[:, picked]
        return out

    def _fill(self, file: FileIO, offset: int, target: memoryview) -> None:
        file.seek(offset)
        while len(target):  # one read returns at most 2 GB
            count = file.readinto(target)
            if not count:
                raise ValueError(f"{self.label}: the file ended while it was read; download it again.")
            target = target[count:]


def _parse_header(entries: dict[str, Any], data: int) -> tuple[dict[str, TensorInfo], int]:
    """The tensors of a header, and where the file must end."""
    infos: dict[str, TensorInfo] = {}
    end = data
    for key, entry in entries.items():
        if key == "__metadata__":
            continue
        shape = tuple(int(length) for length in entry["shape"])
        first, last = (int(offset) for offset in entry["data_offsets"])
        info = TensorInfo(shape, DTYPES.get(entry["dtype"]), data + first)
        if min((first, *shape), default=0) < 0 or last < first:
            raise ValueError(key)
        if info.dtype is not None and last - first != info.elements * info.dtype.itemsize:
            raise ValueError(key)
        infos[key] = info
        end = max(end, data + last)
    return infos, end


def _all_finite(values: Tensor) -> bool:
    """Sums in pieces: `isfinite` alone takes several times the memory and time of the tensor that it looks at."""
    if not values.ndim:
        return bool(values.isfinite())
    step = max(1, CHECKED_ELEMENTS * len(values) // max(1, values.numel()))
    return all(piece.sum().isfinite() or piece.isfinite().all() for piece in values.split(step))


def _runs(ids: Sequence[int], gap: int) -> list[tuple[int, int]]:
    """Sorted ids as (first, last) runs; ids at most `gap` apart share a run."""
    runs: list[tuple[int, int]] = []
    for i in ids:
        if runs and i - runs[-1][1] <= gap:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def _in_order(values: Tensor, wanted: Sequence[int], ids: Sequence[int], dim: int) -> Tensor:
    """Values of the sorted unique ids `wanted`, laid out as `ids` asks."""
    if list(ids) == list(wanted):
        return values
    place = {feature: i for i, feature in enumerate(wanted)}
    return values.index_select(dim, torch.tensor([place[i] for i in ids], device=values.device))


def _announce(file: FileIO, offset: int, stride: int, length: int, count: int) -> None:
    """Lets the disk fetch many small pieces at once: a quarter of the time when the file is not in the page cache."""
    if sys.platform == "linux" and length <= MERGE_GAP_BYTES:
        for place in range(offset, offset + count * stride, stride):
            os.posix_fadvise(file.fileno(), place, length, os.POSIX_FADV_WILLNEED)


def _bytes_of(values: Tensor) -> memoryview:
    return values.view(-1).view(torch.uint8).numpy().data
