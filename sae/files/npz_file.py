"""Files of numpy.savez: a zip archive of .npy members, read without numpy and without running anything they contain.

Of each member only the header is read at first. A stored array is later read from its place in the file; one that was
compressed (numpy.savez_compressed) is unpacked when it is first used, and kept. Layout of a member, by numpy's NEP 1:
a mark, two bytes of version, the header's length, and the header as a line of Python with `descr`, `fortran_order` and
`shape`.
"""

from __future__ import annotations

import re
import threading
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from .archive import UNREADABLE, check_directory, data_start
from .quote import quoted
from .tensor_file import TensorFile, open_file, refuse_pointer
from .tensors import BLOCK_BYTES, JoinedTensors, TensorInfo, TensorSource, join_runs

NPY = "npy"
MAX_MEMBERS = 1000  # an SAE has some ten
MAX_HEADER_BYTES = 10_000  # numpy's own limit
MAX_DIMENSIONS = 64  # torch's own limit
# zlib packs zeros a thousand times smaller. Trained weights in float32 shrink by a tenth, or to half where they once
# were bfloat16; what shrinks more than this is no SAE, and may be made to fill the memory.
MOST_UNPACKED = 20

_MARK = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\{\s*'descr':\s*'([<>|=][A-Za-z]\d{1,3})',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(([\d, ]{0,1000})\),?\s*\}\s*"
)
_DTYPES = {
    "f8": torch.float64, "f4": torch.float32, "f2": torch.float16, "i8": torch.int64, "i4": torch.int32,
    "i2": torch.int16, "i1": torch.int8, "u1": torch.uint8, "b1": torch.bool,
}  # fmt: skip
_BROKEN = (*UNREADABLE, zlib.error)


@dataclass(frozen=True)
class _Member:
    """One array. `info` is as it lies: of an array in Fortran's order the shape is turned round."""

    name: str  # in the archive
    info: TensorInfo
    turned: bool
    packed: bool
    skipped: int  # bytes of its header


def open_npz(path: Path, label: str) -> TensorSource:
    """The arrays of a file of numpy.savez by name.

    Raises ValueError when the file is gone, cut off, a Git LFS pointer, no such archive, holds objects rather than
    numbers, or unpacks to far more than it is.
    """
    file, signature = open_file(path, label)
    with file:
        refuse_pointer(file, label)
        members = _members(file, signature[0], label)
    stored = {key: member.info for key, member in members.items() if not member.packed}
    packed = {key: member for key, member in members.items() if member.packed}
    plain: list[TensorSource] = [TensorFile(path, label, stored, signature)]
    if packed:
        plain.append(_Unpacked(path, label, packed, signature))
    source = plain[0] if len(plain) == 1 else JoinedTensors(plain, label)
    turned = {key for key, member in members.items() if member.turned}
    return _Turned(source, turned) if turned else source


def open_npy(path: Path, label: str) -> TensorSource:
    """The one array of a file of numpy.save, under NPY. ValueError as of `open_npz`."""
    file, signature = open_file(path, label)
    with file:
        refuse_pointer(file, label)
        entry = zipfile.ZipInfo(path.name)
        entry.file_size = signature[0]
        try:
            info, turned, skipped = _parsed(file, entry, label)
        except OSError as error:
            raise _broken(label, "the file is damaged") from error
    source = TensorFile(path, label, {NPY: TensorInfo(info.shape, info.dtype, skipped)}, signature)
    return _Turned(source, {NPY}) if turned else source


def _members(file: FileIO, size: int, label: str) -> dict[str, _Member]:
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        raise ValueError(
            f"{label}: this is not a file of numpy.savez, or it is not complete; download or export it again."
        )
    try:
        check_directory(file)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_MEMBERS or sum(entry.compress_size for entry in entries) > size:
                raise zipfile.BadZipFile
            members: dict[str, _Member] = {}
            for entry in entries:
                key, member = _key(entry, label), _member(archive, entry, file, size, label)
                if key in members:
                    raise _broken(label, f"it has the array {quoted(key)} twice")
                members[key] = member
            return members
    except _UnsoundError:
        raise
    except _BROKEN as error:
        raise _broken(label, "the archive is damaged") from error


def _key(entry: zipfile.ZipInfo, label: str) -> str:
    """The array's name, which is the member's without its ending."""
    name = entry.filename
    if not name.endswith(".npy") or "/" in name or "\\" in name:
        raise _broken(label, f"it has the member {quoted(name)}, which is no array")
    return name.removesuffix(".npy")


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: FileIO, size: int, label: str) -> _Member:
    packed = entry.compress_type == zipfile.ZIP_DEFLATED
    if entry.flag_bits & 1 or not (packed or entry.compress_type == zipfile.ZIP_STORED):
        raise _broken(label, f"the array {quoted(entry.filename)} is encrypted, or packed in a way that numpy does not")
    if packed and entry.file_size > MOST_UNPACKED * entry.compress_size + BLOCK_BYTES:
        raise _broken(label, f"the array {quoted(entry.filename)} unpacks to far more than weights do")
    if packed:
        with archive.open(entry) as member:
            info, turned, skipped = _parsed(member, entry, label)
        return _Member(entry.filename, info, turned, packed, skipped)
    start = data_start(file, entry.header_offset)
    if entry.file_size != entry.compress_size or start + entry.file_size > size:
        raise zipfile.BadZipFile
    file.seek(start)
    info, turned, skipped = _parsed(file, entry, label)
    return _Member(entry.filename, TensorInfo(info.shape, info.dtype, start + skipped), turned, packed, skipped)


def _parsed(member: IO[bytes] | FileIO, entry: zipfile.ZipInfo, label: str) -> tuple[TensorInfo, bool, int]:
    """What an array's header tells, whether it lies in Fortran's order, and the header's bytes."""
    head = member.read(12) or b""
    wide = head[6:7] in (b"\x02", b"\x03")  # versions 2 and 3 have four bytes of length
    skipped = 12 + int.from_bytes(head[8:12], "little") if wide else 10 + int.from_bytes(head[8:10], "little")
    if len(head) < 12 or head[:6] != _MARK or skipped > min(MAX_HEADER_BYTES, entry.file_size):
        raise _broken(label, f"the array {quoted(entry.filename)} has no header of numpy's")
    line = (head[10:] if not wide else b"") + (member.read(skipped - 12) or b"")
    found = _HEADER.fullmatch(line)
    if found is None:
        raise _broken(
            label, f"the array {quoted(entry.filename)} holds objects or has a header that numpy does not write"
        )
    shape = tuple(int(length) for length in found[3].decode().replace(" ", "").split(",") if length)
    kind = found[1].decode()
    info = TensorInfo(shape, _DTYPES.get(kind[1:]) if kind[0] in "<|=" else None)
    itemsize = int(kind[2:]) * (4 if kind[1] == "U" else 1)
    if len(shape) > MAX_DIMENSIONS or skipped + info.elements * itemsize != entry.file_size:
        raise _broken(label, f"the array {quoted(entry.filename)} does not have the bytes that its header tells")
    turned = found[2] == b"True" and len(shape) > 1
    return (TensorInfo(shape[::-1], info.dtype) if turned else info), turned, skipped


class _Unpacked(TensorSource):
    """Arrays that were compressed. Each is unpacked once, when it is first used, into as much memory as it needs."""

    def __init__(self, path: Path, label: str, members: Mapping[str, _Member], signature: tuple[int, int]) -> None:
        self.path, self.label, self.signature = path, label, signature
        self.members = members
        self.infos = {key: member.info for key, member in members.items()}
        self._lock = threading.Lock()  # two threads may ask for the same array
        self._kept: dict[str, Tensor] = {}

    def _read_rows(self, key: str, start: int, stop: int) -> Tensor:
        tensor = self._whole(key)
        return tensor[start:stop] if tensor.ndim else tensor

    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor:
        return self._whole(key)[:, list(ids)]

    def _whole(self, key: str) -> Tensor:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._unpack(self.members[key])
            return self._kept[key]

    def _unpack(self, member: _Member) -> Tensor:
        file, signature = open_file(self.path, self.label)
        values = torch.empty(member.info.shape, dtype=member.info.dtype or torch.uint8)
        with file:
            if signature != self.signature:
                raise ValueError(f"{self.label}: the file has changed since it was loaded; load the SAE again.")
            try:
                with zipfile.ZipFile(file) as archive, archive.open(member.name) as packed:
                    packed.read(member.skipped)
                    _fill(packed, values)
            except _BROKEN as error:
                raise _broken(self.label, f"the array {quoted(member.name)} is damaged") from error
        self.bytes_read += values.nbytes
        return values


def _fill(packed: IO[bytes], values: Tensor) -> None:
    target = values.reshape(-1).view(torch.uint8).numpy().data
    done = 0
    while piece := packed.read(min(BLOCK_BYTES, len(target) - done) or 1):
        target[done : done + len(piece)] = piece  # too long a piece raises ValueError
        done += len(piece)
    if done != len(target):
        raise EOFError


class _Turned(TensorSource):
    """Another source, of which some matrices lie column by column, as Fortran has them."""

    def __init__(self, source: TensorSource, turned: set[str]) -> None:
        self.label, self.source, self.turned = source.label, source, turned
        self.infos = {
            key: TensorInfo(info.shape[::-1], info.dtype) if key in turned else info
            for key, info in source.infos.items()
        }

    def _read_rows(self, key: str, start: int, stop: int) -> Tensor:
        if key not in self.turned:
            return self._counted(self.source._read_rows(key, start, stop))
        whole = len(self.infos[key].shape) != 2 or stop - start == self.infos[key].shape[0]
        if whole:
            stored = self.source._read_all(key)
            return self._counted(stored.permute(*reversed(range(stored.ndim)))[start:stop])
        return self._counted(self.source._read_columns(key, range(start, stop)).T)

    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor:
        if key not in self.turned:
            return self._counted(self.source._read_columns(key, ids))
        runs = [self.source._read_rows(key, first, last + 1) for first, last in join_runs(ids, gap=1)]
        return self._counted(torch.cat(runs).T)

    def _counted(self, values: Tensor) -> Tensor:
        self.bytes_read += values.nbytes
        return values


class _UnsoundError(ValueError):
    """Its sentence says what is wrong."""


def _broken(label: str, why: str) -> _UnsoundError:
    return _UnsoundError(f"{label}: this file of numpy.savez cannot be read ({why}); download or export it again.")
