"""Content of another kind than is due, names and texts that would spoil a message, and what is no file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from crafted import MARKS, TEXT, TRAINER, case, header, safetensors, written
from crafted_nested import lucas
from hostile_pickle import Pickler, archive, nested, saved
from layouts import D, F, linear

# BUILD of {"get": 5, "items": 5, "keys": 5, "__getitem__": 5}
_ATTRIBUTES = b"}(X\x03\x00\x00\x00getK\x05X\x05\x00\x00\x00itemsK\x05"
_ATTRIBUTES += b"X\x04\x00\x00\x00keysK\x05X\x0b\x00\x00\x00__getitem__K\x05ub"


@case("an OrderedDict whose get and items are numbers")
def _attributes(folder: Path) -> Path:
    written(folder, "config.json", TRAINER)
    pickler = Pickler()
    pickler.out += b"ccollections\nOrderedDict\n)R("
    for key, tensor in linear("bias", "encoder.bias").items():
        pickler.put(key)
        pickler.put(tensor)
    pickler.out += b"u" + _ATTRIBUTES + b"."
    return archive(folder / "ae.pt", bytes(pickler.out), pickler.storages)


@case("a config that is such an OrderedDict")
def _attributes_inside(folder: Path) -> Path:
    return saved(
        folder / "model.pt", lucas(b"ccollections\nOrderedDict\n)R(X\x06\x00\x00\x00topk_kK\x04u" + _ATTRIBUTES)
    )


for _name, _state in {
    "a tensor is a list": {**linear("bias", "encoder.bias"), "bias": [1.0] * D},
    "a tensor is a text of 15 MB": {**linear("bias", "encoder.bias"), "bias": TEXT},
    "a tensor is a text of 7 MB": {**linear("bias", "encoder.bias"), "bias": TEXT[:7_000_000]},
    "a tensor has an endless name": {**linear("bias", "encoder.bias"), "n" * 1_000_000: torch.zeros(2)},
    "a tensor has a name of marks": {**linear("bias", "encoder.bias"), MARKS: torch.zeros(2)},
    "all tensors have names of marks": {MARKS + str(n): torch.zeros(2) for n in range(9)},
    "a tensor has half a character in its name": {**linear("bias", "encoder.bias"), "\ud800": torch.zeros(2)},
    "the only entry is nested 50,000 deep": {"state_dict": nested(50_000)},
}.items():  # fmt: skip

    @case(_name)
    def _state_of(folder: Path, state: dict[str, Any] = _state) -> Path:
        written(folder, "config.json", TRAINER)
        return saved(folder / "ae.pt", state)


for _name, _config in {
    "dict_class of marks": {"trainer": {"dict_class": MARKS * 200}},
    "k is a list of a million": {"trainer": {"dict_class": "AutoEncoderTopK", "k": list(range(100_000))}},
}.items():

    @case(_name)
    def _trainer(folder: Path, config: Any = _config) -> Path:
        written(folder, "config.json", config)
        return saved(folder / "ae.pt", linear("b_dec", "encoder.bias"))


@case("a header that repeats 7 MB in its format")
def _format(folder: Path) -> Path:
    metadata = {"format": "sae_steering " + "x" * 7_000_000}
    return safetensors(folder / "m.safetensors", {"encoder": torch.zeros(2, 2)}, metadata)


@case("a description whose kind is nested and whose words are marks")
def _description(folder: Path) -> Path:
    described = json.dumps({"architecture": {"kind": MARKS * 99, "k": 10**300}, "location": MARKS})
    metadata = {"format": "sae_steering 1", "sae": described}
    state = {"encoder": torch.ones(F, D), "decoder": torch.ones(F, D)}
    return safetensors(folder / "m.safetensors", state, metadata)


@case("a location of a million blocks")
def _location(folder: Path) -> Path:
    described = {
        "architecture": {"kind": "relu"},
        "location": "transformer_blocks." + "0-9999," * 150_000 + "1",
        "stream": "image",
    }
    metadata = {"format": "sae_steering 1", "sae": json.dumps(described)}
    state = {"encoder": torch.ones(F, D), "decoder": torch.ones(F, D)}
    return safetensors(folder / "m.safetensors", state, metadata)


@case("a file and a folder with marks in their names")
def _name_of_marks(folder: Path) -> Path:
    place = folder / ("a\nb\u202e" * 20)
    place.mkdir()
    return header(place / f"{'c' * 9}\u2066\n.safetensors", b"{}" + b" " * 6)


@case("several weight files with marks in their names")
def _names_of_marks(folder: Path) -> Path:
    for number in range(20):
        (folder / f"a\n\u202e{'x' * 150}{number}.pt").write_bytes(b"")
    return folder


# What is no file

for _name in ("ae.pt", "ae.safetensors"):

    @case(f"a pipe as {_name}")
    def _pipe(folder: Path, name: str = _name) -> Path:
        os.mkfifo(folder / name)
        return folder / name


for _name in ("config.json", "ae.stats.safetensors", "ae.labels.json"):

    @case(f"a pipe as {_name} beside it")
    def _pipe_beside(folder: Path, name: str = _name) -> Path:
        os.mkfifo(folder / name)
        return saved(folder / "ae.pt", linear("bias", "encoder.bias"))
