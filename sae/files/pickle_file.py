"""Files of torch.save, read without running anything that they contain and without reading their tensors at first.

torch.load(weights_only=True) rebuilds the structure from a reader that skips the storages and notes where they lie in
the zip archive; what is asked for later is read from there. Layout: an archive with one `data.pkl` and one stored
record `data/<number>` for each storage.
"""

from __future__ import annotations

import io
import os
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from .tensor_file import TensorFile, open_file, refuse_pointer
from .tensors import JoinedTensors, TensorInfo, TensorMemory, TensorSource

MAX_PICKLE_BYTES = 64 * 2**20  # of `data.pkl`, which holds names and shapes only
MAX_RECORDS = 100_000
# What a file of tensors, numbers and texts refers to.
_HARMLESS = {
    "collections.OrderedDict",
    "collections.defaultdict",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.storage.UntypedStorage",
}
_DTYPES = {str(dtype) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_RUNS_CODE = {"os", "posix", "nt", "sys", "subprocess", "builtins", "__builtin__", "runpy", "importlib", "shutil"}
_RUNS_CODE |= {"socket", "ctypes", "pickle", "code", "codeop", "operator", "functools", "types", "webbrowser", "pty"}


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
    _refuse_code(outline, label)
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
        with zipfile.ZipFile(outline) as archive:
            entries = archive.infolist()
        if len(entries) > MAX_RECORDS or sum(entry.file_size for entry in entries) > size:
            raise zipfile.BadZipFile
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise zipfile.BadZipFile
        return {
            _data_start(outline, entry.header_offset): entry.file_size
            for entry in entries
            if "/data/" in entry.filename and entry.file_size
        }
    except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, OSError, NotImplementedError, OverflowError) as error:
        raise _broken(label, "the archive is damaged or compressed") from error


def _data_start(outline: _Outline, header: int) -> int:
    """Behind the record's own header: 30 bytes, its name, its extra field."""
    outline.seek(header)
    local = outline.read(30) or b""
    if local[:4] != b"PK\x03\x04" or len(local) < 30:
        raise zipfile.BadZipFile
    return header + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def _refuse_code(outline: _Outline, label: str) -> None:
    """Reads the names that the pickle refers to; a pickle of tensors needs a handful only."""
    try:
        with zipfile.ZipFile(outline) as archive:
            names = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            if len(names) != 1 or names[0].file_size > MAX_PICKLE_BYTES:
                raise _broken(label, "it has no data.pkl of a sensible size")
            found = [
                (operation.name, str(argument)) for operation, argument, _ in pickletools.genops(archive.read(names[0]))
            ]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, IndexError) as error:
        if isinstance(error, ValueError) and str(error).startswith(label):
            raise
        raise _broken(label, "its pickle cannot be read") from error
    for operation, argument in found:
        if operation in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            _check_name(".".join(argument.split(" ")), label)


def _check_name(name: str, label: str) -> None:
    module, _, attribute = name.rpartition(".")
    if name in _HARMLESS or name in _DTYPES or (module == "torch" and attribute.endswith("Storage")):
        return
    if module.split(".")[0] in _RUNS_CODE and attribute != "set":
        raise ValueError(
            f"{label}: this pickle would run code ({name}) and was not opened; do not load it elsewhere either, and "
            f"get the SAE's tensors as safetensors or as a plain state dict."
        )
    raise ValueError(
        f"{label}: this is a pickled object ({name}), which only its own code can open; save its state_dict() with "
        f"torch.save or as safetensors, and load that."
    )


def _broken(label: str, why: str) -> ValueError:
    return ValueError(f"{label}: this file of torch.save cannot be read ({why}); download or export it again.")


@dataclass
class _Collected:
    stored: dict[str, TensorInfo] = field(default_factory=dict)
    in_memory: dict[str, Tensor] = field(default_factory=dict)


_WRAPPERS = ("state_dict", "model_state_dict", "model", "sae")


def _contents(loaded: object, outline: _Outline, path: Path, label: str, signature: tuple[int, int]) -> PickleContents:
    if not isinstance(loaded, Mapping):
        kind = "a single tensor" if isinstance(loaded, Tensor) else f"a {type(loaded).__name__}"
        raise ValueError(f"{label}: the file holds {kind}; an SAE is a dictionary of named tensors (a state dict).")
    wrapper = next((key for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
    state = loaded[wrapper] if wrapper else loaded
    collected = _Collected()
    extras = {str(key): value for key, value in loaded.items() if wrapper and key != wrapper}
    for key, value in state.items():
        if isinstance(value, Tensor):
            _collect(collected, str(key), value, outline, label)
        else:
            extras[str(key)] = value
    sources: list[TensorSource] = [TensorFile(path, label, collected.stored, signature)]
    if collected.in_memory:
        sources.append(TensorMemory(collected.in_memory, label))
    source = sources[0] if len(sources) == 1 else JoinedTensors(sources, label)
    return PickleContents(source, extras, wrapper)


def _collect(collected: _Collected, name: str, tensor: Tensor, outline: _Outline, label: str) -> None:
    """Notes where a tensor lies; one that does not lie row by row is read and laid out so."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(f"{label}: the tensor {name!r} is sparse, quantized or without data; save it as a plain one.")
    if not tensor.numel():
        collected.in_memory[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return
    storage = tensor.untyped_storage()
    offset, size = outline.found.get(storage.data_ptr(), (0, 0))
    first = tensor.storage_offset() * tensor.dtype.itemsize
    last = first + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) * tensor.dtype.itemsize
    if last + tensor.dtype.itemsize > size or tensor.numel() * tensor.dtype.itemsize > size:
        raise _broken(label, f"the tensor {name!r} is larger than its data")
    if tensor.is_contiguous():
        collected.stored[name] = TensorInfo(tuple(tensor.shape), tensor.dtype, int(offset + first))
        return
    data = bytearray(size)
    outline.file.seek(offset)
    if outline.file.readinto(data) != size:
        raise _broken(label, "it ended early")
    flat = torch.frombuffer(data[: size - size % tensor.dtype.itemsize], dtype=tensor.dtype)
    collected.in_memory[name] = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
