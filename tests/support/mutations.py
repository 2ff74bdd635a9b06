"""Breaks checkpoints in many ways: bytes, lengths, names, shapes, offsets, configs, archives."""

from __future__ import annotations

import io
import json
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import layouts
from layouts import D, F, K

CANARY = "canary"  # a file of this name appears when a checkpoint runs code
ODD = [None, True, -1, 0, 0.5, 10**30, -(10**9), "", "x" * 50, [], {}, [[]], "NaN", 1e308, 2**63, "../../x", "\0", "ü"]


@dataclass(frozen=True)
class Kind:
    """A sound checkpoint in a folder of its own."""

    name: str
    file: str
    folder: Path
    architecture: str = "auto"


def _zipped(folder: Path, name: str, method: int) -> Kind:
    """The SAELens files in one archive."""
    (folder / name).mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name / "weights.zip", "w", method) as archive:
        for file in sorted((folder / "saelens").iterdir()):
            archive.writestr(f"sae/{file.name}", file.read_bytes())
    return Kind(name, "weights.zip", folder / name)


def originals(folder: Path) -> list[Kind]:
    """One of each container: safetensors with config, split safetensors, torch.save flat and nested, saev's, npz."""
    folder.mkdir(exist_ok=True)
    linear = layouts.linear("bias", "encoder.bias")
    config = {"features": D, "pages": F, "k": K, "sample": None}
    rows, bias = linear["decoder.weight"].T, linear["bias"]
    reny = layouts.Case("model.safetensors", linear, lambda x: x, rows, bias, {"config.json": config})
    matrices = layouts.matrices()
    lens = {"architecture": "topk", "d_in": D, "d_sae": F, "k": K, "apply_b_dec_to_input": True, "metadata": {}}
    saelens = replace(reny, file="sae_weights.safetensors", state=matrices, configs={"cfg.json": lens})
    unbox = {"pre_bias": bias, "latent_bias": linear["encoder.bias"], **{k: linear[k] for k in linear if "weight" in k}}
    nested = {"n_dirs_local": F, "d_model": D, "k": K}
    sdxl = replace(reny, file="state_dict.pth", state={"state_dict": unbox}, configs={"config.json": nested})
    trainer = {"trainer": {"dict_class": "AutoEncoder", "activation_dim": D, "dict_size": F}}
    dictionary = replace(reny, file="ae.pt", configs={"config.json": trainer})
    line = {"schema": 5, "cfg": {"d_model": D, "d_sae": F, "activation": {"cls": "TopK", "params": {"top_k": K}}}}
    saev = replace(reny, file="sae.pt", state=matrices, configs={}, line=line)
    exponentials = {"decoder_bias": bias, "encoder.weight": linear["encoder.weight"], "r_mag": rows[:, 0].clone()}
    exponentials |= {"gate_bias": linear["encoder.bias"], "mag_bias": linear["encoder.bias"].clone()}
    gated = replace(reny, state={**exponentials, "decoder.weight": linear["decoder.weight"]})
    gemma = replace(reny, file="params.npz", state=matrices | {"threshold": torch.ones(F)}, configs={})
    cases = {"reny": reny, "saelens": saelens, "sdxl": sdxl, "dictionary": dictionary, "saev": saev, "gated": gated}
    cases |= {"gemma": gemma}
    kinds = []
    for name, case in cases.items():
        if not (folder / name).exists():
            case.write(folder / name)
        kinds.append(Kind(name, case.file, folder / name))
    _shards(folder / "shards", linear, config)
    kinds += [_zipped(folder, "zip", zipfile.ZIP_STORED), _zipped(folder, "packed", zipfile.ZIP_DEFLATED)]
    return [*kinds, Kind("shards", "model-00001-of-00002.safetensors", folder / "shards")]


def _shards(folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts = [{key: state[key] for key in list(state)[half::2]} for half in (0, 1)]
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name)
    index = {"weight_map": {key: name for name, part in zip(names, parts, strict=True) for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))


def mutated(kind: Kind, folder: Path, chance: random.Random) -> Path:
    """A copy of the checkpoint with one to three things broken; returns the weight file's path."""
    shutil.copytree(kind.folder, folder)
    path = folder / kind.file
    ways = [*_COMMON, *_OF_KIND.get(path.suffix, _ARCHIVE)]
    for way in chance.choices(ways, k=chance.choice([1, 1, 1, 2, 3])):
        way(path, chance)
    return path


def _flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 4, 64])):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)


def _cut(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data) + 1)])


def _grow(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.choice([1, 8, 400])))


def _replace_slice(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    start = chance.randrange(len(data) + 1)
    path.write_bytes(data[:start] + chance.randbytes(chance.randrange(64)) + data[start + chance.randrange(64) :])


def _config(path: Path, chance: random.Random) -> None:
    """A config with an odd value, or none that JSON allows."""
    configs = sorted(path.parent.glob("*.json"))
    if not configs:
        return
    chosen = chance.choice(configs)
    try:
        config = json.loads(chosen.read_text())
    except (ValueError, RecursionError):
        return
    if not isinstance(config, dict):
        return
    key = chance.choice([*config, "k", "d_in", "normalize_activations", "architecture"])
    config[key] = chance.choice(ODD)
    if isinstance(config.get("trainer"), dict) and chance.random() < 0.7:
        config["trainer"][chance.choice([*config["trainer"], "k"])] = chance.choice(ODD)
    texts = [json.dumps(config)] * 6 + ["[" * 5000, "{", "[1]", '{"k": NaN}', "", "\ufeff{}", '{"k": 1e999}']
    chosen.write_text(chance.choice(texts), encoding="utf-8")


def _missing(path: Path, chance: random.Random) -> None:
    others = [file for file in path.parent.iterdir() if file != path]
    if others:
        chance.choice(others).unlink()


def _header(path: Path, chance: random.Random) -> None:
    """One entry of a safetensors header changed, its length made right again or not."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        entries = json.loads(data[8 : 8 + length])
        key = chance.choice(list(entries))
        entry = entries[key]
        field = chance.choice(["shape", "dtype", "data_offsets", "name", "whole", "item"])
        if field == "name":
            entries[chance.choice(["W_skip", "x", "lora_a", key + "2"])] = entries.pop(key)
        elif field == "whole":
            entries[key] = chance.choice(ODD)
        elif field == "item":
            entry[chance.choice(["shape", "data_offsets"])][0] = chance.choice(ODD)
        else:
            entry[field] = chance.choice([*ODD, [2**40, 2**40], [-1, 4], [0, 0], "I64", "F64", "BOOL", "F8_E4M3"])
    except (ValueError, TypeError, KeyError, IndexError):
        return
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _length(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(chance.choice([0, 1, 2**31, 2**62, 2**64 - 1, len(data)]).to_bytes(8, "little") + data[8:])


def _not_finite(path: Path, chance: random.Random) -> None:
    """NaN, infinity or a number that becomes so somewhere near the end, where the numbers are."""
    data = bytearray(path.read_bytes())
    if len(data) > 400:
        place = len(data) - 4 * chance.randrange(1, 60)
        data[place : place + 4] = struct.pack(
            "<f", chance.choice([float("nan"), float("inf"), 3e38, -1e30, 1e20, 100.0])
        )
    path.write_bytes(data)


def _records(path: Path, change: Callable[[dict[str, bytes]], int]) -> None:
    """Takes an archive apart and puts it together again; `change` returns the compression."""
    content = path.read_bytes()
    line = content.partition(b"\n")[0] + b"\n" if content[:1] == b"{" else b""
    try:
        with zipfile.ZipFile(io.BytesIO(content[len(line) :])) as archive:
            records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError, EOFError):
        return
    compression = change(records)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    path.write_bytes(line + out.getvalue())


def _pickle_bytes(path: Path, chance: random.Random) -> None:
    def change(records: dict[str, bytes]) -> int:
        for name in [name for name in records if name.endswith("data.pkl")]:
            data = bytearray(records[name])
            for _ in range(chance.choice([1, 1, 2, 8])):
                data[chance.randrange(len(data))] = chance.randrange(256)
            records[name] = bytes(data)
        return zipfile.ZIP_STORED

    _records(path, change)


def _lost_record(path: Path, chance: random.Random) -> None:
    def change(records: dict[str, bytes]) -> int:
        name = chance.choice(list(records))
        records[name] = chance.choice([b"", records[name][:7], records[name] * 2, bytes(2**20)])
        if chance.random() < 0.4:
            del records[name]
        return chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])

    _records(path, change)


class Attack:
    """Pickles as a call that leaves the canary."""

    def __init__(self, call: object, *arguments: object) -> None:
        self.call = (call, arguments)

    def __reduce__(self) -> object:
        return self.call


def _array_header(path: Path, chance: random.Random) -> None:
    """One character of an array's header changed, or a number in it."""

    def change(records: dict[str, bytes]) -> int:
        name = chance.choice(list(records))
        data = bytearray(records[name])
        for _ in range(chance.choice([1, 1, 2, 8])):
            if data:
                data[chance.randrange(min(len(data), 90))] = chance.choice(b"0123456789 ,()'{}<>|=OfiTrueFalse\0\xff")
        records[name] = bytes(data)
        return chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])

    _records(path, change)


def _code(path: Path, chance: random.Random) -> None:
    import os

    target = path.parent.parent / CANARY
    attacks = [
        Attack(os.system, f"touch {target}"),
        Attack(eval, f"open({str(target)!r}, 'w').close()"),
        Attack(exec, f"open({str(target)!r}, 'w').close()"),
        Attack(Path.touch, target),
        Attack(shutil.copyfile, __file__, str(target)),
    ]
    payload = pickle.dumps({"encoder.weight": chance.choice(attacks)}, protocol=chance.choice([0, 2, 4, 5]))

    def change(records: dict[str, bytes]) -> int:
        for name in [name for name in records if name.endswith("data.pkl")]:
            records[name] = payload
        return zipfile.ZIP_STORED

    path.write_bytes(payload) if chance.random() < 0.2 else _records(path, change)


def _strange_tensors(path: Path, chance: random.Random) -> None:
    """A sound archive of tensors that are none an SAE has."""
    big = torch.zeros(1).expand(2**20, 2**12)
    content = path.read_bytes()
    line = content.partition(b"\n")[0] + b"\n" if content[:1] == b"{" else b""
    try:
        state = torch.load(io.BytesIO(content[len(line) :]), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  broken before by another mutation
        return
    inner = state.get("state_dict", state) if isinstance(state, dict) else {}
    tensors = [key for key in inner if isinstance(inner[key], torch.Tensor)]
    if not tensors:
        return
    key = chance.choice(tensors)
    tensor = inner[key]
    if not tensor.is_floating_point() or tensor.numel() < 2:
        return
    odd = [
        big, tensor.to_sparse(), tensor.to(torch.complex64), tensor.int(), tensor[..., :0], torch.empty(0), 3, "text",
        tensor.permute(*reversed(range(tensor.ndim))), tensor.unsqueeze(0), None, [tensor], {"a": tensor},
        torch.nn.Parameter(tensor), tensor.double(), tensor.as_strided((2, 2), (0, 1)),
    ]  # fmt: skip
    inner[key] = chance.choice(odd)
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
    except RuntimeError:
        return
    path.write_bytes(line + buffer.getvalue())


_COMMON = (_flip, _cut, _grow, _replace_slice, _config, _config, _missing, _not_finite)
_SAFETENSORS = (_header, _header, _header, _length)
_ARRAYS = (_array_header, _array_header, _lost_record)
_ARCHIVE = (_pickle_bytes, _pickle_bytes, _lost_record, _code, _strange_tensors)
_OF_KIND = {".safetensors": _SAFETENSORS, ".npz": _ARRAYS}
