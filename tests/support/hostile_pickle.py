"""Files of torch.save that nobody would write: pickles of anything, operation by operation."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from mutations import CANARY, Attack


def unfolding(kind: type = list, deep: int = 40, wide: int = 10) -> Any:
    """Some hundred bytes that unfold to 10^40 values."""
    found: Any = kind(["lol"])
    for _ in range(deep):
        found = kind([found] * wide)
    return found


def nested(deep: int, kind: type = list) -> Any:
    found: Any = kind([1])
    for _ in range(deep):
        found = kind([found])
    return found


class Pickler:
    """A pickle of protocol 2, written operation by operation: Python's own pickler would fold what is nested."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo: dict[int, int] = {}
        self.kept: list[object] = []
        self.storages: list[torch.Tensor] = []

    def put(self, value: Any) -> None:
        """Every container is written once and then taken from the memo. Deep nesting is no matter: only lists of 1."""
        if id(value) in self.memo:
            self.out += b"j" + struct.pack("<I", self.memo[id(value)])
        elif isinstance(value, bytes):  # operations as they are
            self.out += value
        elif value is None or isinstance(value, bool):
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a" + bytes([len(data)]) + data
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            self.out += b"X" + struct.pack("<I", len(data)) + data
        elif isinstance(value, torch.Tensor):
            self._tensor(value)
        elif isinstance(value, (list, tuple)) and len(value) == 1:
            self._chain(value)
        else:
            self._container(value)

    def _chain(self, value: Any) -> None:
        """Lists or tuples of one thing, however deep."""
        kind, depth, inner = type(value), 0, value
        while type(inner) is kind and len(inner) == 1:
            depth, inner = depth + 1, inner[0]
        self.out += b"]" * depth if kind is list else b""
        self.put(inner)
        self.out += (b"a" if kind is list else b"\x85") * depth
        self._remember(value)

    def _container(self, value: Any) -> None:
        if isinstance(value, dict):
            self.out += b"}("
            for key, entry in value.items():
                self.put(key)
                self.put(entry)
            self.out += b"u"
        else:
            self.out += b"](" if isinstance(value, list) else b"("
            for item in value:
                self.put(item)
            self.out += b"e" if isinstance(value, list) else b"t"
        self._remember(value)

    def _remember(self, value: object) -> None:
        self.kept.append(value)
        self.memo[id(value)] = len(self.memo)
        self.out += b"r" + struct.pack("<I", self.memo[id(value)])

    def _tensor(self, tensor: torch.Tensor) -> None:
        self.out += b"ctorch._utils\n_rebuild_tensor_v2\n(("
        self.put("storage")
        self.out += b"ctorch\nFloatStorage\n" if tensor.dtype == torch.float32 else b"ctorch\nDoubleStorage\n"
        for value in (str(len(self.storages)), "cpu", tensor.numel()):
            self.put(value)
        self.out += b"tQ"
        self.storages.append(tensor.contiguous())
        for value in (0, tuple(tensor.shape), tensor.contiguous().stride(), False):
            self.put(value)
        self.out += b"ccollections\nOrderedDict\n)RtR"


def archive(path: Path, data: bytes, storages: list[torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        out.writestr("archive/data.pkl", data)
        out.writestr("archive/byteorder", "little")
        for number, tensor in enumerate(storages):
            out.writestr(f"archive/data/{number}", tensor.numpy().tobytes())
        out.writestr("archive/version", "3\n")
    return path


def saved(path: Path, content: Any, after: bytes = b"") -> Path:
    """As torch.save, but of anything. `after` is run on the dictionary before it is handed back."""
    pickler = Pickler()
    pickler.put(content)
    return archive(path, bytes(pickler.out) + after + b".", pickler.storages)


def raw(path: Path, operations: bytes) -> Path:
    return archive(path, b"\x80\x02" + operations, [])


def reduced(folder: Path, protocol: int) -> bytes:
    return pickle.dumps({"encoder.weight": Attack(os.system, f"touch {folder.parent / CANARY}")}, protocol=protocol)
