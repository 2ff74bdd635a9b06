"""Files of numpy.savez that nobody would write: objects, lying headers, odd members, archives that fill the memory."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy

from crafted import MARKS, case
from layouts import D, F, matrices
from mutations import CANARY, Attack

STORED, PACKED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_ARRAYS = {**{key: value.numpy() for key, value in matrices().items()}, "threshold": numpy.ones(F, dtype="float32")}


def member(array: numpy.ndarray) -> bytes:
    """An array as it stands in the archive."""
    buffer = io.BytesIO()
    numpy.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def headed(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def npz(folder: Path, members: Mapping[str, bytes], compression: int = STORED) -> Path:
    """The five arrays of an SAE, with these members in place of or beside them."""
    path = folder / "params.npz"
    whole = {f"{key}.npy": member(array) for key, array in _ARRAYS.items()} | dict(members)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in whole.items():
            archive.writestr(name, content)
    return path


_SOUND = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"
for _name, _content in {
    "an array of objects": headed(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"\x80\x04N."),
    "records": headed(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n", bytes(4)),
    "a header that is code": headed(b"{'descr': print('run'), 'fortran_order': False, 'shape': (1,), }\n", bytes(4)),
    "a header nested 4000 deep": headed(b"(" * 4000 + b"\n"),
    "a header of 60 KB": headed(b"{" + b" " * 60_000 + b"}\n"),
    "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(200),
    "a shape larger than its data": headed(_SOUND % b"4000000, 4000000", bytes(64)),
    "a shape of 900 digits": headed(_SOUND % (b"9" * 900), bytes(64)),
    "a shape of 400 lengths": headed(_SOUND % (b"1," * 400), bytes(4)),
    "a negative shape": headed(_SOUND % b"-4,", bytes(16)),
    "bytes in the other order": headed(b"{'descr': '>f4', 'fortran_order': False, 'shape': (32,), }\n", bytes(128)),
    "texts": member(numpy.array(["a", "bc"])),
    "complex numbers": member(numpy.zeros(F, dtype="complex64")),
    "NaN": member(numpy.full(F, numpy.nan, dtype="float32")),
    "no mark": b"\0" * 400,
    "an empty member": b"",
}.items():  # fmt: skip
    for _way in (STORED, PACKED):

        @case(f"npz with {_name}{', packed' if _way == PACKED else ''}")
        def _odd(folder: Path, content: bytes = _content, way: int = _way) -> Path:
            return npz(folder, {"threshold.npy": content}, way)


@case("npz with code")
def _code(folder: Path) -> Path:
    attack = Attack(Path.touch, folder.parent / CANARY)
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return npz(folder, {"threshold.npy": headed(header, pickle.dumps(attack))})


for _name in ("../../x.npy", "W_enc", "a/b.npy", f"{MARKS}.npy", "x" * 60_000 + ".npy", ".npy", "lora_a.npy"):

    @case(f"npz with the member {_name[:20]!r}")
    def _named(folder: Path, name: str = _name) -> Path:
        return npz(folder, {name: member(numpy.zeros(3, dtype="float32"))})


@case("npz with a member twice")
def _twice(folder: Path) -> Path:
    path = npz(folder, {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("W_enc.npy ", member(_ARRAYS["W_enc"]))
    path.write_bytes(path.read_bytes().replace(b"W_enc.npy ", b"W_enc.npy\0"))
    return path


@case("npz that unpacks to 1 GB")
def _bomb(folder: Path) -> Path:
    path = npz(folder, {}, PACKED)
    header = headed(_SOUND % b"250000, 1000")
    with zipfile.ZipFile(path, "a", PACKED) as archive, archive.open("more.npy", "w", force_zip64=True) as more:
        more.write(header)
        for _ in range(100):
            more.write(bytes(10**7))
    return path


@case("npz of 400 members that share their data")
def _shared(folder: Path) -> Path:
    """The directory names one stored member again and again."""
    path = folder / "params.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", member(numpy.zeros((1000, 1000), dtype="float32")))
        first = archive.filelist[0]
        for number in range(400):
            again = zipfile.ZipInfo(f"a{number}.npy")
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = first.file_size
            archive.filelist.append(again)
    return path


def _entries(folder: Path, name: str, count: int) -> Path:
    """An archive whose directory has so many entries of nothing, 70 bytes each."""
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl" if name == "ae.pt" else "a.npy", b"")
        place = archive.start_dir
    content = path.read_bytes()
    entry = content[place : content.rindex(b"PK\x05\x06")]
    directory = entry * count
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count % 65_536, count % 65_536, len(directory), place, 0)
    path.write_bytes(content[:place] + directory + end)
    return path


for _file in ("params.npz", "ae.pt"):

    @case(f"{_file} with a directory of 90 MB")
    def _directory(folder: Path, file: str = _file) -> Path:
        return _entries(folder, file, 1_500_000)

    @case(f"{_file} with the largest directory that is read")
    def _directory_most(folder: Path, file: str = _file) -> Path:
        return _entries(folder, file, 120_000)


@case("npz that is empty")
def _empty(folder: Path) -> Path:
    zipfile.ZipFile(folder / "params.npz", "w").close()
    return folder / "params.npz"


@case("npz of another shape")
def _shape(folder: Path) -> Path:
    return npz(folder, {"W_dec.npy": member(numpy.zeros((D, F), dtype="float32"))})
