"""Files that are small to write and large to read."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch

from crafted import MARKS, RENY, TEXT, case, header, safetensors, written
from hostile_pickle import archive, nested, raw
from layouts import linear

for _name, _operation, _end in (
    ("none", b"N", b"."), ("empty sets", b"\x8f", b"."), ("empty dictionaries", b"}", b"."), ("marks", b"(", b"."),
    ("lists in lists", b"]", b"."), ("tuples", b")", b"."),
):  # fmt: skip
    for _size in (12, 60):

        @case(f"a pickle of {_size} MB of {_name}")
        def _long(folder: Path, operation: bytes = _operation, size: int = _size, end: bytes = _end) -> Path:
            return raw(folder / "ae.pt", operation * (size * 10**6) + end)


@case("a pickle of 7 MB of memo entries")
def _memo(folder: Path) -> Path:
    return raw(folder / "ae.pt", b"}" + b"".join(b"r" + struct.pack("<I", n) for n in range(1_400_000)) + b".")


@case("a pickle of as many operations as are read")
def _most(folder: Path) -> Path:
    return raw(folder / "ae.pt", b"]" + b"}a" * 124_990 + b".")


@case("a million records")
def _records(folder: Path) -> Path:
    return archive(folder / "ae.pt", b"\x80\x02}.", [torch.zeros(0)] * 30_000)


for _name, _unit in {"lists": b"[],", "objects": b"{},", "blanks": b"   ", "tensors": b""}.items():

    @case(f"a header of 90 MB of {_name}")
    def _header(folder: Path, unit: bytes = _unit) -> Path:
        if unit:
            return header(folder / "m.safetensors", b'{"a":[' + unit * (90_000_000 // 3) + b"0]}")
        entry = b'"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
        return header(folder / "m.safetensors", b"{" + b"".join(entry % n for n in range(1_500_000)) + b'"z":0}')


@case("the largest header that is read, of lists")
def _header_most(folder: Path) -> Path:
    return header(folder / "m.safetensors", b'{"a":[' + b"[]," * 2_700_000 + b"0]}")


@case("the largest header that is read, of tensors")
def _header_tensors(folder: Path) -> Path:
    entry = b'"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
    entries = b"".join(entry % n for n in range(140_000))
    return header(folder / "m.safetensors", b"{" + entries + b'"z":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}')


@case("a header of lengths of 4000 digits")
def _header_digits(folder: Path) -> Path:
    shape = ",".join(["9" * 4000] * 64)
    return header(
        folder / "m.safetensors", f'{{"W_enc":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}}}'.encode()
    )


for _name, _text in {
    "17 MB of lists": '{"a":[' + "[]," * 5_600_000 + "0]}", "nested 100,000 deep": '{"k":' + "[" * 100_000,
    "a k of 400 digits": json.dumps({**RENY, "k": 10**400}), "a k of 5000 digits": '{"k": ' + "9" * 5000 + "}",
    "a text of 15 MB": json.dumps({**RENY, "k": TEXT}), "nested 900 deep": json.dumps({**RENY, "sample": nested(900)}),
    "a text of 0.9 MB": json.dumps({**RENY, "sample": TEXT[:900_000]}), "marks": json.dumps({**RENY, "k": MARKS}),
}.items():  # fmt: skip

    @case(f"config.json with {_name}")
    def _config(folder: Path, text: str = _text) -> Path:
        written(folder, "config.json", text)
        return safetensors(folder / "model.safetensors", linear("bias", "encoder.bias"))
