"""Files of torch.save, read without running anything that they contain and without reading their tensors at first.

torch.load(weights_only=True) rebuilds the structure from a reader that skips the storages and notes where they lie in
the zip archive; what is asked for later is read from there. Layout: an archive with one `data.pkl` and one stored
record `data/<number>` for each storage.
"""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from .archive import UNREADABLE, check_directory, data_start
from .pickle_check import MAX_PICKLE_BYTES, UnsoundError, check_pickle
from .quote import Plain, quoted
from .tensor_file import TensorFile, open_file, refuse_pointer
from .tensors import JoinedTensors, TensorInfo, TensorMemory, TensorSource

MAX_RECORDS = 20_000  # a storage each; see pickle_check.py for what a checkpoint needs


@dataclass
class PickleContents:
    """A file's tensors by name, and everything else in it."""

    source: TensorSource
    extras: dict[str, Any]  # what is no tensor, and what lies outside `wrapper`
    wrapper: str | None = None  # the entry that holds the tensors, such as "state_dict", where they are not on top


def open_pickle(path: Path, label: str, skip: int = 0) -> PickleContents:
    """Opens a file of torch.save that starts `skip` bytes into the file.

    Raises ValueError for anything but tensors, numbers and texts: code, whole modules, other formats, broken files.
    """
    file, signature = open_file(path, label)
    with file:
        outline = _Outline(file, skip)
        loaded = _load(outline, label)
        return _contents(loaded, outline, path, label, signature)


def open_tensor(path: Path, label: str) -> Tensor:
    """The tensor in a file that holds just one, with the same refusals."""
    file, signature = open_file(path, label)
    with file:
        outline = _Outline(file, 0)
        loaded = _load(outline, label)
        if not isinstance(loaded, Tensor):
            raise ValueError(f"{label}: the file holds a {type(loaded).__name__}, but a single tensor is wanted.")
        contents = _contents({"tensor": loaded}, outline, path, label, signature)
    return contents.source.whole("tensor")


def _load(outline: _Outline, label: str) -> object:
    """The structure, its tensors without their data."""
    refuse_pointer(outline.file, label)
    outline.records = _find_records(outline, label)
    _refuse_unsound(outline, label)
    outline.seek(0)
    try:
        return torch.load(cast(BinaryIO, outline), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError,
            AssertionError, EOFError, OverflowError, MemoryError, RecursionError, OSError) as error:  # fmt: skip
        raise _broken(label, type(error).__name__) from error


class _Outline(io.RawIOBase):
    """The archive without its storages: reading one leaves its memory untouched and notes its place in the file."""

    def __init__(self, file: FileIO, skip: int) -> None:
        self.file = file
        self.skip = skip
        self.records: dict[int, int] = {}  # offset in the archive -> bytes of each storage
        self.found: dict[int, tuple[int, int]] = {}  # address in memory -> (offset in the file, bytes)
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            offset += self.skip
        return self.file.seek(offset, whence) - self.skip

    def tell(self) -> int:
        return self.file.tell() - self.skip

    def readinto(self, buffer: Any) -> int:
        place = self.tell()
        if len(buffer) and self.records.get(place) == len(buffer):
            address = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
            self.found[address] = (place + self.skip, len(buffer))
            self.seek(place + len(buffer))
            return len(buffer)
        return self.file.readinto(buffer) or 0


def _find_records(outline: _Outline, label: str) -> dict[int, int]:
    """Where the storages lie in the archive; ValueError when it is none, or not one that torch.save wrote."""
    outline.seek(0)
    if outline.read(4) != b"PK\x03\x04":
        raise ValueError(
            f"{label}: this is not a file of torch.save (of torch 1.6 or newer), or it is not complete; download it "
            f"again, or save the SAE's tensors as safetensors."
        )
    size = os.fstat(outline.file.fileno()).st_size - outline.skip
    try:
        check_directory(outline)
        with zipfile.ZipFile(outline) as archive:
            entries = archive.infolist()
        if len(entries) > MAX_RECORDS or sum(entry.file_size for entry in entries) > size:
            raise zipfile.BadZipFile
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise zipfile.BadZipFile
        return {
            data_start(outline, entry.header_offset): entry.file_size
            for entry in entries
            if "/data/" in entry.filename and entry.file_size
        }
    except UNREADABLE as error:
        raise _broken(label, "the archive is damaged or compressed") from error


def _refuse_unsound(outline: _Outline, label: str) -> None:
    """Has the pickle looked through before it is unpickled."""
    try:
        with zipfile.ZipFile(outline) as archive:
            names = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            sensible = len(names) == 1 and names[0].file_size <= MAX_PICKLE_BYTES
            pickled = archive.read(names[0]) if sensible else None
    except UNREADABLE as error:
        raise _broken(label, "its pickle cannot be read") from error
    if pickled is None:
        raise _broken(label, "it has no data.pkl of a sensible size")
    try:
        check_pickle(pickled, label)
    except UnsoundError as error:
        raise _broken(label, str(error)) from error


def _broken(label: str, why: str) -> ValueError:
    return ValueError(f"{label}: this file of torch.save cannot be read ({why}); download or export it again.")


@dataclass
class _Collected:
    stored: dict[str, TensorInfo] = field(default_factory=dict)
    in_memory: dict[str, Tensor] = field(default_factory=dict)


_WRAPPERS = ("state_dict", "model_state_dict", "model", "sae")


def _contents(loaded: object, outline: _Outline, path: Path, label: str, signature: tuple[int, int]) -> PickleContents:
    """Whatever is no tensor is copied as plain values, so that no reader meets anything else."""
    if not isinstance(loaded, dict):
        kind = "a single tensor" if isinstance(loaded, Tensor) else f"a {type(loaded).__name__}"
        raise ValueError(f"{label}: the file holds {kind}; an SAE is a dictionary of named tensors (a state dict).")
    top = _entries(loaded)
    wrapper = next((key for key in _WRAPPERS if isinstance(top.get(key), dict)), None)
    outside = {key: value for key, value in top.items() if key != wrapper} if wrapper else {}
    inside = _entries(top[wrapper]) if wrapper else top
    collected = _Collected()
    others: dict[str, object] = {}
    for key, value in inside.items():
        if isinstance(value, Tensor):
            _collect(collected, key, value, outline, label)
        else:
            others[key] = value
    sources: list[TensorSource] = [TensorFile(path, label, collected.stored, signature)]
    if collected.in_memory:
        sources.append(TensorMemory(collected.in_memory, label))
    source = sources[0] if len(sources) == 1 else JoinedTensors(sources, label)
    plain = Plain()
    return PickleContents(source, {key: plain.copy(value) for key, value in {**outside, **others}.items()}, wrapper)


def _entries(found: dict[Any, Any]) -> dict[str, Any]:
    """A dictionary by the names of its entries. `dict.items`: an OrderedDict may have an attribute called items."""
    return {key if isinstance(key, str) else quoted(key): value for key, value in dict.items(found)}


def _collect(collected: _Collected, name: str, tensor: Tensor, outline: _Outline, label: str) -> None:
    """Notes where a tensor lies; one that does not lie row by row is read and laid out so."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(
            f"{label}: the tensor {quoted(name)} is sparse, quantized or without data; save it as a plain one."
        )
    if not tensor.numel():
        collected.in_memory[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return
    storage = tensor.untyped_storage()
    offset, size = outline.found.get(storage.data_ptr(), (0, 0))
    first = tensor.storage_offset() * tensor.dtype.itemsize
    last = first + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) * tensor.dtype.itemsize
    if last + tensor.dtype.itemsize > size or tensor.numel() * tensor.dtype.itemsize > size:
        raise _broken(label, f"the tensor {quoted(name)} is larger than its data")
    if tensor.is_contiguous():
        collected.stored[name] = TensorInfo(tuple(tensor.shape), tensor.dtype, int(offset + first))
        return
    data = bytearray(size)
    outline.file.seek(offset)
    if outline.file.readinto(data) != size:
        raise _broken(label, "it ended early")
    flat = torch.frombuffer(data[: size - size % tensor.dtype.itemsize], dtype=tensor.dtype)
    collected.in_memory[name] = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
