"""A safetensors file inside a zip archive, with the small JSON files beside it there.

A stored member is read from its place in the archive, as from a file; one that was compressed is unpacked when it is
first used, and kept. Nothing is written to the disk.
"""

from __future__ import annotations

import re
import threading
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from .archive import UNREADABLE, check_directory, data_start
from .npz_file import MAX_MEMBERS, MOST_UNPACKED
from .quote import quoted, shown
from .safetensors_file import metadata_of, read_header
from .tensor_file import TensorFile, open_file, refuse_pointer
from .tensors import BLOCK_BYTES, TensorInfo, TensorSource

_BROKEN = (*UNREADABLE, zlib.error)


@dataclass(frozen=True)
class Zipped:
    """What an archive holds of one checkpoint."""

    source: TensorSource
    metadata: dict[str, str]
    texts: dict[str, bytes]  # the JSON files of the weight file's folder, by their names


def open_zipped(path: Path, label: str, beside: re.Pattern[str], most_text: int) -> Zipped:
    """The one safetensors file of an archive; members whose names `beside` matches are not weights.

    JSON files of more than `most_text` bytes are left out. ValueError for an archive that is damaged, holds none or
    several of them, is encrypted, or unpacks to far more than it is.
    """
    file, signature = open_file(path, label)
    with file:
        refuse_pointer(file, label)
        try:
            check_directory(file)
            with zipfile.ZipFile(file) as archive:
                entry = _weights(archive.infolist(), label, beside)
                texts = _texts(archive, entry, most_text)
                return _opened(path, label, archive, entry, file, signature, texts)
        except _SentenceError:
            raise
        except _BROKEN as error:
            raise ValueError(f"{label}: this zip archive is damaged or not complete; download it again.") from error


def _weights(entries: Sequence[zipfile.ZipInfo], label: str, beside: re.Pattern[str]) -> zipfile.ZipInfo:
    if len(entries) > MAX_MEMBERS:
        raise zipfile.BadZipFile
    found = [e for e in entries if e.filename.endswith(".safetensors") and not beside.fullmatch(_name(e))]
    if len(found) != 1:
        names = shown(", ".join(entry.filename for entry in found[:4])) or "none"
        raise _SentenceError(
            f"{label}: a zip archive is read where it holds one safetensors file, but this one holds {names}; unpack "
            f"it, and give the file itself."
        )
    entry = found[0]
    packed = entry.compress_type == zipfile.ZIP_DEFLATED
    if entry.flag_bits & 1 or not (packed or entry.compress_type == zipfile.ZIP_STORED):
        raise _SentenceError(f"{label}: {quoted(entry.filename)} is encrypted or packed in a way that is not read.")
    if packed and entry.file_size > MOST_UNPACKED * entry.compress_size + BLOCK_BYTES:
        raise _SentenceError(f"{label}: {quoted(entry.filename)} unpacks to far more than weights do.")
    return entry


def _texts(archive: zipfile.ZipFile, weights: zipfile.ZipInfo, most: int) -> dict[str, bytes]:
    texts: dict[str, bytes] = {}
    folder = weights.filename.rpartition("/")[0]
    for entry in archive.infolist():
        if entry.filename.rpartition("/")[0] == folder and entry.filename.endswith(".json") and not entry.flag_bits & 1:
            with archive.open(entry) as member:
                content = member.read(most + 1)
            if len(content) <= most:
                texts[_name(entry)] = content
    return texts


def _opened(
    path: Path, label: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: FileIO, signature: tuple[int, int],
    texts: dict[str, bytes],
) -> Zipped:  # fmt: skip
    with archive.open(entry) as member:
        entries, infos, end = read_header(member, entry.file_size, label)
    if end != entry.file_size:
        raise _SentenceError(f"{label}: {quoted(entry.filename)} has {entry.file_size} bytes, but describes {end}.")
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        return Zipped(_Unpacked(path, label, entry, infos, signature), metadata_of(entries), texts)
    start = data_start(file, entry.header_offset)
    if entry.file_size != entry.compress_size or start + entry.file_size > signature[0]:
        raise zipfile.BadZipFile
    placed = {key: replace(info, start=info.start + start) for key, info in infos.items()}
    return Zipped(TensorFile(path, label, placed, signature), metadata_of(entries), texts)


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.rpartition("/")[2]


class _SentenceError(ValueError):
    """Its sentence says what is wrong."""


class _Unpacked(TensorSource):
    """Tensors of a compressed safetensors file, which is unpacked once, when the first of them is used."""

    def __init__(
        self,
        path: Path,
        label: str,
        entry: zipfile.ZipInfo,
        infos: Mapping[str, TensorInfo],
        signature: tuple[int, int],
    ) -> None:
        self.path, self.label, self.infos, self.signature = path, label, infos, signature
        self._entry = entry
        self._lock = threading.Lock()
        self._kept: Tensor | None = None

    def _read_rows(self, key: str, start: int, stop: int) -> Tensor:
        tensor = self._tensor(key)
        return tensor[start:stop] if tensor.ndim else tensor

    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor:
        return self._tensor(key)[:, list(ids)]

    def _tensor(self, key: str) -> Tensor:
        info = self.infos[key]
        dtype = info.dtype or torch.uint8
        part = self._bytes()[info.start : info.start + info.elements * dtype.itemsize]
        return (part if info.start % dtype.itemsize == 0 else part.clone()).view(dtype).view(info.shape)

    def _bytes(self) -> Tensor:
        with self._lock:
            if self._kept is None:
                self._kept = self._unpacked()
                self.bytes_read += self._kept.nbytes
            return self._kept

    def _unpacked(self) -> Tensor:
        file, signature = open_file(self.path, self.label)
        values = torch.empty(self._entry.file_size, dtype=torch.uint8)
        target = values.numpy().data
        with file:
            if signature != self.signature:
                raise ValueError(f"{self.label}: the file has changed since it was loaded; load the SAE again.")
            try:
                with zipfile.ZipFile(file) as archive, archive.open(self._entry.filename) as packed:
                    while len(target):
                        piece = packed.read(min(len(target), BLOCK_BYTES))
                        if not piece:
                            raise EOFError
                        target[: len(piece)] = piece
                        target = target[len(piece) :]
                    packed.read(1)  # its end, where its checksum is looked at
            except _BROKEN as error:
                raise ValueError(
                    f"{self.label}: {quoted(self._entry.filename)} is damaged; download it again."
                ) from error
        return values
