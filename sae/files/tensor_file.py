"""Tensors that lie in a file in plain binary form, at known offsets.

Files are read with plain seeks, not through a memory map: a column of a row-major matrix touches every row, and the
kernel maps 64 KB around each touched page, 200 MB for one column of a 49,152 × 3,072 decoder.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from .tensors import BLOCK_BYTES, TensorInfo, TensorSource, join_runs

MERGE_GAP_BYTES = 4096  # reading over a gap of this size costs less than another seek
LFS_MARK = b"version https://git-lfs"


class TensorFile(TensorSource):
    """Row-major tensors of a file, found by `infos`; the file is opened for each read and not kept open."""

    def __init__(self, path: Path, label: str, infos: Mapping[str, TensorInfo], signature: tuple[int, int]) -> None:
        """`signature` is what `open_file` gave while the offsets were found."""
        self.path = path
        self.label = label
        self.infos = infos
        self.signature = signature

    def _open(self) -> FileIO:
        file, signature = open_file(self.path, self.label)
        if signature != self.signature:
            file.close()
            raise ValueError(f"{self.label}: the file has changed since it was loaded; load the SAE again.")
        return file

    def _read_rows(self, key: str, start: int, stop: int) -> Tensor:
        info = self.infos[key]
        dtype = info.dtype or torch.uint8
        values = torch.empty((stop - start, *info.shape[1:]) if info.shape else (), dtype=dtype)
        with self._open() as file:
            self._fill(file, info.start + start * info.row_length * dtype.itemsize, _bytes_of(values))
        self.bytes_read += values.nbytes
        return values

    def _read_run(self, key: str, first: int, count: int) -> bytes:
        info = self.infos[key]
        size = (info.dtype or torch.uint8).itemsize
        run = bytearray(count * size)
        with self._open() as file:
            self._fill(file, info.start + first * size, memoryview(run))
        self.bytes_read += len(run)
        return bytes(run)

    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor:
        info = self.infos[key]
        dtype = self.stored_dtype(key)
        pieces = []
        with self._open() as file:
            for first, last in join_runs(ids, gap=MERGE_GAP_BYTES // dtype.itemsize):
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


def open_file(path: Path, label: str) -> tuple[FileIO, tuple[int, int]]:
    """The file, and what tells whether it is still the same one later: size and time of change."""
    try:
        file = FileIO(path, opener=_open_at_once)
    except OSError as error:
        raise ValueError(
            f"{label}: the file cannot be opened ({error.strerror}); it may have been removed after it was listed, so "
            f"choose a file that is there."
        ) from error
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        file.close()
        raise ValueError(f"{label}: this is a pipe or a device and no file; give a file of weights.")
    return file, (found.st_size, found.st_mtime_ns)


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for whoever writes to a pipe of that name."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def refuse_pointer(file: FileIO, label: str) -> None:
    """Raises ValueError when the file is a Git LFS pointer. Leaves the file at its start."""
    if file.read(len(LFS_MARK)) == LFS_MARK:
        size = os.fstat(file.fileno()).st_size
        raise ValueError(
            f"{label}: this is a Git LFS pointer of {size} bytes, not the weights; run 'git lfs pull' or download the "
            f"file itself."
        )
    file.seek(0)


def _announce(file: FileIO, offset: int, stride: int, length: int, count: int) -> None:
    """Lets the disk fetch many small pieces at once: a quarter of the time when the file is not in the page cache."""
    if sys.platform == "linux" and length <= MERGE_GAP_BYTES:
        for place in range(offset, offset + count * stride, stride):
            os.posix_fadvise(file.fileno(), place, length, os.POSIX_FADV_WILLNEED)


def _bytes_of(values: Tensor) -> memoryview:
    return values.view(-1).view(torch.uint8).numpy().data
