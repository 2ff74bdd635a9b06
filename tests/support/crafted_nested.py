"""Structures that unfold to more than any memory, or go deeper than any stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from crafted import case
from hostile_pickle import Pickler, archive, nested, raw, saved, unfolding
from layouts import D, F, K, linear


def openai(**more: Any) -> dict[str, Any]:
    t = linear("pre_bias", "latent_bias")
    return {**t, "activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}, **more}


def lucas(config: Any) -> dict[str, Any]:
    return {"state_dict": linear("pre_bias", "encoder.bias"), "config": config}


_LUCAS = {"use_topk": True, "topk_k": K, "input_dim": D, "hidden_dim": F}
for _key in (*_LUCAS, "architecture", "layer", "normalize_data"):
    for _how, _value in {
        "unfolding lists": unfolding(), "unfolding tuples": unfolding(tuple), "nested lists": nested(50_000),
        "a tensor": torch.zeros(100, 100),
    }.items():  # fmt: skip

        @case(f"config {_key} is {_how}")
        def _nested(folder: Path, key: str = _key, value: Any = _value) -> Path:
            return saved(folder / "model.pt", lucas({**_LUCAS, key: value}))


@case("config d_in against d_out, both unfolding")
def _widths(folder: Path) -> Path:
    return saved(folder / "model.pt", lucas({**_LUCAS, "d_in": unfolding(), "d_out": unfolding()}))


@case("the whole config unfolds")
def _whole(folder: Path) -> Path:
    return saved(folder / "model.pt", lucas(unfolding()))


for _key, _entry in {
    "activation": {"activation": unfolding()},
    "activation, tuples": {"activation": unfolding(tuple)},
    "k": {"activation_state_dict": {"k": unfolding()}},
    "k nested": {"activation_state_dict": {"k": nested(50_000)}},
    "postact_fn": {"activation_state_dict": {"k": K, "postact_fn": unfolding()}},
    "postact_fn a tensor": {"activation_state_dict": {"k": K, "postact_fn": torch.zeros(9)}},
    "k of 600 digits": {"activation_state_dict": {"k": 10**600}},
}.items():

    @case(f"openai, {_key}")
    def _openai(folder: Path, entry: dict[str, Any] = _entry) -> Path:
        return saved(folder / "autoencoder.pt", openai(**entry))


for _what, _key_of in {
    "an unfolding tuple": unfolding(tuple), "a deep tuple": nested(100_000, tuple), "a wide tuple": (1,) * 100,
}.items():  # fmt: skip

    @case(f"a key of the top dictionary is {_what}")
    def _key_top(folder: Path, key: Any = _key_of) -> Path:
        pickler = Pickler()
        pickler.out += b"}"
        pickler.put(key)
        pickler.out += b"Ns."
        return archive(folder / "ae.pt", bytes(pickler.out), [])


def _called(function: bytes, *arguments: Any) -> bytes:
    pickler = Pickler()
    pickler.out = bytearray(b"c" + function)
    pickler.put(tuple(arguments) if len(arguments) != 1 else (arguments[0], None))
    pickler.out += b"R."
    return bytes(pickler.out)


for _what, _operations in {
    "an unfolding list is called": (b"", unfolding()),
    "OrderedDict of unfolding keys": (b"collections\nOrderedDict\n", [[unfolding(tuple), 1]]),
    "torch.Size of an unfolding list": (b"torch\nSize\n", unfolding()),
    "a storage of a terabyte": (b"torch\nFloatStorage\n", 10**12),
    "a device of an unfolding list": (b"torch\ndevice\n", unfolding()),
    "a parameter of an unfolding list": (b"torch.nn.parameter\nParameter\n", unfolding()),
}.items():

    @case(_what)
    def _call(folder: Path, given: tuple[bytes, Any] = _operations) -> Path:
        function, value = given
        if function:
            return raw(folder / "ae.pt", _called(function, value))
        pickler = Pickler()
        pickler.put(value)
        return archive(folder / "ae.pt", bytes(pickler.out) + b")R.", [])


@case("a storage named by an unfolding list")
def _persistent(folder: Path) -> Path:
    pickler = Pickler()
    pickler.out += b"("
    pickler.put("storage")
    pickler.out += b"ctorch\nFloatStorage\n"
    for value in (unfolding(), "cpu", 4):
        pickler.put(value)
    return archive(folder / "ae.pt", bytes(pickler.out) + b"tQ.", [])
