"""GGUF files: only the header is read at first, tensors later from their places. Quantised tensors are not read.

Layout: github.com/ggml-org/ggml, docs/gguf.md. A mark, a version, the numbers of tensors and of notes; the
notes, each a name, a type and a value; of each tensor its name, its lengths (the innermost first), its type and its
place; the data.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .quote import quoted
from .tensor_file import TensorFile, open_file, refuse_pointer
from .tensors import TensorInfo
from .whole import replacing

MARK, VERSIONS = b"GGUF", (2, 3)
MAX_HEADER_BYTES = 8 * 2**20  # a language model's vocabulary takes some 5 MB; a control vector's notes 200 bytes
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 4  # the format's own limit
DEFAULT_ALIGNMENT, MAX_ALIGNMENT = 32, 2**20
_TYPES = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

Note = str | int | float | bool


def open_gguf(path: Path, label: str) -> tuple[TensorFile, dict[str, Note]]:
    """The tensors by name, and the notes that are texts or numbers; of lists the length is all that is looked at.

    Raises ValueError when the file is gone, cut off, a Git LFS pointer or not in the GGUF format.
    """
    file, signature = open_file(path, label)
    with file:
        refuse_pointer(file, label)
        header = _Header(file, signature[0])
        try:
            notes, infos = header.parse()
        except (_UnsoundError, struct.error, UnicodeDecodeError, OverflowError) as error:
            why = str(error) if isinstance(error, _UnsoundError) else "its header is damaged"
            raise ValueError(
                f"{label}: this file cannot be read as GGUF ({why}); download or export it again."
            ) from error
    return TensorFile(path, label, infos, signature), notes


class _UnsoundError(ValueError):
    """Its words say what is wrong."""


class _Header:
    def __init__(self, file: FileIO, size: int) -> None:
        self.file, self.size = file, size
        self.content = file.read(min(size, MAX_HEADER_BYTES)) or b""
        self.place = 0

    def parse(self) -> tuple[dict[str, Note], dict[str, TensorInfo]]:
        if self.take(4) != MARK:
            raise _UnsoundError("its first bytes are not GGUF")
        version = self.number("<I")
        if version not in VERSIONS:
            raise _UnsoundError(f"version {version}; known are 2 and 3")
        tensors, notes = self.number("<Q"), self.number("<Q")
        if tensors > MAX_TENSORS or notes > MAX_TENSORS:
            raise _UnsoundError("it names far more tensors or notes than a control vector has")
        found: dict[str, Note] = {}
        for _ in range(notes):
            name, value = self.text(), self.value(self.number("<I"))
            if value is not None:
                found[name] = value
        entries = [self.tensor() for _ in range(tensors)]
        return found, self._placed(entries, found)

    def take(self, count: int) -> bytes:
        piece = self.content[self.place : self.place + count]
        if len(piece) != count:
            raise _UnsoundError("it is cut off, or its header is larger than any control vector's")
        self.place += count
        return piece

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode()

    def value(self, kind: int) -> Note | None:
        """None of a list, which is passed over."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            if inner == _STRING:
                for _ in range(count):
                    self.text()
            elif inner in _NUMBERS:
                self.take(count * struct.calcsize(_NUMBERS[inner]))
            else:
                raise _UnsoundError("a list in it holds lists")
            return None
        if kind not in _NUMBERS:
            raise _UnsoundError(f"a note in it is of the unknown type {kind}")
        value: Note = self.number(_NUMBERS[kind])
        return value

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.text(), self.number("<I")
        if dimensions > MAX_DIMENSIONS:
            raise _UnsoundError(f"the tensor {quoted(name)} has {dimensions} dimensions")
        lengths = tuple(self.number("<Q") for _ in range(dimensions))
        return name, lengths[::-1], self.number("<I"), self.number("<Q")

    def _placed(
        self, entries: list[tuple[str, tuple[int, ...], int, int]], notes: Mapping[str, Note]
    ) -> dict[str, TensorInfo]:
        alignment = notes.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= MAX_ALIGNMENT:
            raise _UnsoundError(f"its general.alignment is {quoted(alignment)}")
        data = -(-self.place // alignment) * alignment
        infos: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in entries:
            info = TensorInfo(shape, _TYPES.get(kind), data + offset)
            if name in infos:
                raise _UnsoundError(f"it has the tensor {quoted(name)} twice")
            if info.dtype is not None and info.start + info.elements * info.dtype.itemsize > self.size:
                raise _UnsoundError(f"the tensor {quoted(name)} reaches beyond its end")
            infos[name] = info
        return infos


def write_gguf(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str | int]) -> None:
    """Writes a small file of float32 tensors in one go, version 3; the notes are texts and whole numbers."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    head = MARK + struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(notes))
    for name, note in notes.items():
        head += text(name)
        head += struct.pack("<I", _STRING) + text(note) if isinstance(note, str) else struct.pack("<II", 4, note)
    data = b""
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().float().contiguous()
        head += text(name) + struct.pack("<I", values.ndim) + struct.pack(f"<{values.ndim}Q", *values.shape[::-1])
        head += struct.pack("<IQ", 0, len(data))
        data += values.numpy().tobytes()
        data += bytes(-len(data) % DEFAULT_ALIGNMENT)
    with replacing(path) as part:
        part.write_bytes(head + bytes(-len(head) % DEFAULT_ALIGNMENT) + data)
