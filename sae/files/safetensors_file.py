"""safetensors files: only the header is read at first.

Header layout: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from .archive import Readable
from .quote import shown
from .tensor_file import TensorFile, open_file, refuse_pointer
from .tensors import FLOATS, TensorInfo
from .whole import replacing

# The format allows 100 MB. A tensor takes about 100 bytes: the largest model whose header we know has 92,000 tensors in
# 163 files, a whole FLUX.1 in one file 780, an SAE some ten; a LoRA's or a picture model's notes may take 1 MB more.
MAX_HEADER_BYTES = 8 * 2**20
MAX_DIMENSIONS = 64  # torch's own limit
_INTEGERS = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
DTYPES = {**FLOATS, **_INTEGERS, "BOOL": torch.bool}


def open_safetensors(path: Path, label: str | None = None) -> tuple[TensorFile, dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises ValueError when the file is gone, cut off, a Git LFS pointer or not in the safetensors format.
    """
    label = label or shown(path.name)
    file, signature = open_file(path, label)
    with file:
        refuse_pointer(file, label)
        entries, infos, end = read_header(file, signature[0], label)
    if signature[0] != end:
        fault = "is cut off" if signature[0] < end else "is too long"
        raise ValueError(
            f"{label}: the file {fault}: {signature[0]} bytes, but its header describes {end}; download it again."
        )
    return TensorFile(path, label, infos, signature), metadata_of(entries)


def write_whole(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a small file in one go, see `replacing`."""
    with replacing(path) as part:
        try:
            save_file(dict(tensors), part, metadata=dict(metadata))
        except SafetensorError as error:  # what safetensors makes of a write that fails
            raise OSError(errno.EIO, "the disk may be full") from error


def read_header(file: Readable, size: int, label: str) -> tuple[dict[str, Any], dict[str, TensorInfo], int]:
    """The header of a file of this size: its entries, the tensors with their places, and where the file must end."""
    length = int.from_bytes(file.read(8) or b"", "little")
    if MAX_HEADER_BYTES < length <= size - 8:
        raise ValueError(
            f"{label}: its header has {length} bytes, but no SAE's has more than {MAX_HEADER_BYTES}; download or "
            f"export it again."
        )
    if size < 10 or not 2 <= length <= size - 8:
        raise ValueError(
            f"{label}: this is not a complete safetensors file ({size} bytes); download or export it again."
        )
    try:
        entries = json.loads(file.read(length) or b"")
        infos, end = _parse_header(entries, 8 + length)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{label}: the header cannot be read ({type(error).__name__}); a safetensors file is accepted."
        ) from error
    return entries, infos, end


def _parse_header(entries: Mapping[str, Any], data: int) -> tuple[dict[str, TensorInfo], int]:
    """The tensors of a header, and where the file must end."""
    infos: dict[str, TensorInfo] = {}
    end = data
    for key, entry in entries.items():
        if key == "__metadata__":
            continue
        shape = tuple(_whole(length) for length in entry["shape"])
        first, last = (_whole(offset) for offset in entry["data_offsets"])
        info = TensorInfo(shape, DTYPES.get(entry["dtype"]), data + first)
        if last < first or len(shape) > MAX_DIMENSIONS:
            raise ValueError(key)
        if info.dtype is not None and last - first != info.elements * info.dtype.itemsize:
            raise ValueError(key)
        infos[key] = info
        end = max(end, data + last)
    return infos, end


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value


def metadata_of(entries: Mapping[str, Any]) -> dict[str, str]:
    metadata = entries.get("__metadata__")
    if not isinstance(metadata, dict):
        return {}
    return {str(key): value for key, value in metadata.items() if isinstance(value, str)}
