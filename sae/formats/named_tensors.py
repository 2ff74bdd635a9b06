"""The files of a checkpoint: which weight file, its shards, what lies beside it, and that all are where they may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import small_json
from ..files.gguf_file import open_gguf
from ..files.npz_file import open_npy, open_npz
from ..files.pickle_file import open_pickle
from ..files.quote import AllowedFolders, Plain, shown
from ..files.safetensors_file import open_safetensors
from ..files.small_json import parse_object
from ..files.tensor_file import open_file
from ..files.tensors import JoinedTensors, TensorSource
from ..files.zipped import open_zipped

MOST_CONFIG_BYTES = 2**20  # real ones have a few KB, SAELens' runners 20
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz", ".npy", ".zip", ".gguf")
HEADER = "saev header"  # key in `extras` of the JSON line with which saev's files begin
GGUF = "gguf notes"  # key in `extras` of what a GGUF file says of itself
# What lies beside an SAE without being one.
BESIDE = re.compile(
    r".*\.(?:stats|gallery)\.safetensors|sparsity\.safetensors|mean\.pt|std\.pt|trainer_state\.pt|training_args\.bin|"
    r"activations_store_state\.safetensors|optimizer.*|expected\.pt|shard-\d{5}\.safetensors|training(?:\.\d+)?\.pt"
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


@dataclass
class Container:
    """The opened weight files of one SAE."""

    source: TensorSource
    files: tuple[Path, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    wrapper: str | None = None
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)  # those that lie in the same archive


def weight_file(path: Path) -> Path:
    """The one weight file of a folder, or the file itself."""
    if not path.is_dir():
        return path
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and not BESIDE.fullmatch(file.name))
    firsts = [file for file in found if _is_first(file)]
    if len(firsts) == 1:
        return firsts[0]
    if not found:
        raise ValueError(
            f"{shown(path.name)}: the folder has no weight file ({', '.join(SUFFIXES)}); download the weights into it."
        )
    names = shown(", ".join(file.name for file in firsts or found))
    raise ValueError(
        f"{shown(path.name)}: the folder has several weight files ({names}); give the path of one of them."
    )


def _is_first(file: Path) -> bool:
    shard = _SHARD.fullmatch(file.stem)
    return shard is None or int(shard["number"]) == 1


def stem_of(path: Path) -> str:
    """The file's name without suffix and shard number."""
    shard = _SHARD.fullmatch(path.stem)
    return shard["stem"] if shard else path.stem


def open_container(path: Path, label: str, allowed: AllowedFolders) -> Container:
    """Opens a weight file, together with the other shards where it is one of several."""
    if path.suffix not in SUFFIXES:
        kind = "".join(path.suffixes[-2:]) or "file without suffix"
        raise ValueError(f"{label}: a {shown(kind, 20)} is not read; give a file of the kinds {', '.join(SUFFIXES)}.")
    paths = _shards(path, label, allowed)
    opened = [_open(file, label if len(paths) == 1 else f"{label} ({shown(file.name, 60)})", allowed) for file in paths]
    if len(opened) == 1:
        return opened[0]
    joined = Container(JoinedTensors([part.source for part in opened], label), tuple(paths))
    for part in opened:
        joined.metadata |= part.metadata
        joined.extras |= part.extras
    return joined


def _open(path: Path, label: str, allowed: AllowedFolders) -> Container:
    allowed.check(path, label)
    if path.suffix == ".safetensors":
        source, metadata = open_safetensors(path, label)
        return Container(source, (path,), metadata)
    if path.suffix == ".npz":
        return Container(open_npz(path, label), (path,))
    if path.suffix == ".npy":
        return Container(open_npy(path, label), (path,))
    if path.suffix == ".gguf":
        vectors, notes = open_gguf(path, label)
        return Container(vectors, (path,), extras={GGUF: notes})
    if path.suffix == ".zip":
        zipped = open_zipped(path, label, BESIDE, MOST_CONFIG_BYTES)
        configs = {
            name: Plain().copy(parse_object(text, f"{label}: {shown(name, 40)} in it"))
            for name, text in zipped.texts.items()
        }
        return Container(zipped.source, (path,), zipped.metadata, configs=configs)
    header, skip = _first_line(path, label)
    contents = open_pickle(path, label, skip)
    extras = contents.extras if header is None else {**contents.extras, HEADER: header}
    return Container(contents.source, (path,), {}, extras, contents.wrapper)


def _first_line(path: Path, label: str) -> tuple[Mapping[str, Any] | None, int]:
    """The JSON object on the first line, and where the rest begins; (None, 0) for an ordinary file."""
    file, _ = open_file(path, label)
    with file:
        if file.read(1) != b"{":
            return None, 0
        file.seek(0)
        line = file.read(MOST_CONFIG_BYTES).partition(b"\n")[0]
    header = parse_object(line, f"{label}: its first line")
    return Plain().copy(header), len(line) + 1


def _shards(path: Path, label: str, allowed: AllowedFolders) -> list[Path]:
    shard = _SHARD.fullmatch(path.stem)
    if shard is None:
        return [path]
    stem, count = shard["stem"], int(shard["count"])
    names = [f"{stem}-{number:05}-of-{count:05}{path.suffix}" for number in range(1, min(count, 1000) + 1)]
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing or not 1 <= int(shard["number"]) <= count:
        raise ValueError(
            f"{label}: the shard {shown((missing or [path.name])[0])} is missing; download all {count} of them."
        )
    others = {file.name for file in path.parent.glob(f"*-of-*{path.suffix}")}
    beyond = sorted(name for name in others - set(names) if (found := _SHARD.match(name)) and found["stem"] == stem)
    if beyond:
        raise ValueError(
            f"{label}: {shown(beyond[0])} is a shard of another split; keep the {count} files of one download."
        )
    _check_index(path.with_name(f"{stem}{path.suffix}.index.json"), set(names), label, allowed)
    return [path.with_name(name) for name in names]


def _check_index(index: Path, names: set[str], label: str, allowed: AllowedFolders) -> None:
    """The index names the shard of each tensor; where it lies beside them, it must mean these."""
    content = _read_json(index, label, allowed, small_json.MOST_BYTES)
    if content is None:
        return
    listed = content.get("weight_map")
    if not isinstance(listed, dict) or {name for name in listed.values() if isinstance(name, str)} != names:
        raise ValueError(
            f"{label}: {shown(index.name)} names other shards than the {len(names)} files beside it; download all "
            f"again."
        )


def read_config(path: Path, label: str, allowed: AllowedFolders) -> dict[str, Any] | None:
    """The plain values of a config, None where there is no file."""
    content = _read_json(path, label, allowed, MOST_CONFIG_BYTES)
    return None if content is None else Plain().copy(content)


def _read_json(path: Path, label: str, allowed: AllowedFolders, most: int) -> dict[str, Any] | None:
    if not path.is_file():
        if path.is_symlink() or path.is_dir():
            raise ValueError(
                f"{label}: {shown(path.name)} beside it is no file (a broken link or a folder); remove it."
            )
        return None
    allowed.check(path, label)
    return small_json.read_json(path, "config", f"{label}: {shown(path.name)} beside it", most)
