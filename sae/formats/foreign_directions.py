"""Directions that other tools made, each for one layer: control vectors in GGUF, .npy and .npz arrays, safetensors.

GGUF (repeng, llama.cpp): `direction.N` is added to what block N gives out. safetensors: `layerN.v` likewise. `.npy`: a
row for each hidden state, or one direction. `.npz`: `d`, one direction, or `dirs` with `blocks`, a row for each block.

They come without an encoder. A feature's code is here the part of x along its direction, max(0, x·d / ‖d‖²), so that
it can be found and set; a mean of what others fire at is not known of them. All directions of a file are the features
of one dictionary, in their order; `directions:N` is the one of layer N alone, which then tells its hidden state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..dictionary.activations import Architecture
from ..dictionary.weights import Weight
from ..files.npz_file import NPY
from ..files.quote import quoted
from ..files.tensors import ComputedRows
from .checkpoint import Checkpoint, Reading
from .named_tensors import GGUF

CONFIG_NAME = "config.json"
LAYOUTS = "directions"
LAYOUT_NAMES = ("directions",)

MOST = 10_000  # directions in a file
_NAMED = re.compile(r"direction\.(\d{1,4})|layers?[._]?(\d{1,4})\.v")
_ARCHITECTURE, _HINT = "general.architecture", "controlvector.model_hint"


@dataclass(frozen=True)
class _Rows:
    """n directions: `read(i)` gives the i-th, (d,); `layers` says of which block, or hidden state, each is."""

    d_in: int
    layers: tuple[int | None, ...]
    kind: str  # block or hidden state
    read: Callable[[int], Tensor]


def matches(checkpoint: Checkpoint) -> bool:
    if checkpoint.path.suffix in (".npy", ".gguf"):
        return True
    names = set(checkpoint.header)
    if checkpoint.path.suffix == ".npz":
        return names == {"d"} or {"dirs"} <= names <= {"dirs", "blocks"}
    return bool(names) and all(_NAMED.fullmatch(name) for name in names)


def read(checkpoint: Checkpoint) -> Reading:
    rows = _rows(checkpoint)
    chosen = range(len(rows.layers))
    hook: str | None = None
    notes: tuple[str, ...] = ()
    if checkpoint.asked_k is not None:
        if checkpoint.asked_k not in rows.layers:
            known = ", ".join(str(layer) for layer in rows.layers[:12]) or "none"
            raise checkpoint.fail(
                f"architecture: there is no direction of {rows.kind} {checkpoint.asked_k}; there are {known}."
            )
        chosen = range(rows.layers.index(checkpoint.asked_k), rows.layers.index(checkpoint.asked_k) + 1)
    told = [rows.layers[place] for place in chosen]
    if len(told) == 1 and told[0] is not None:
        hook = f"model.layers.{told[0]}" + (".input" if rows.kind == "hidden state" else "")
    elif any(layer is not None for layer in told):
        pairs = ", ".join(f"{feature} of {layer}" for feature, layer in enumerate(told[:6]))
        more = ", …" if len(told) > 6 else ""
        notes = (
            f"each direction is of a {rows.kind} of its own (feature {pairs}{more}); directions:{told[0]} in the input "
            f"architecture is the first alone, at its place.",
        )
    shape, start = (len(told), rows.d_in), chosen[0]
    matrix = ComputedRows(shape, lambda first, stop: _stacked(rows, start + first, start + stop), checkpoint.label)
    along = ComputedRows(shape, lambda first, stop: _along(rows, start + first, start + stop), checkpoint.label)
    tensors = {"encoder": Weight(along, ComputedRows.KEY), "decoder": Weight(matrix, ComputedRows.KEY)}
    notes_of_file = checkpoint.extras.get(GGUF)
    config = {"model": hint} if isinstance(notes_of_file, Mapping) and (hint := notes_of_file.get(_HINT)) else {}
    name = {".gguf": "control vectors (GGUF)", ".npy": "directions (.npy)", ".npz": "directions (.npz)"}
    layout = name.get(checkpoint.path.suffix, "directions (layerN.v)")
    return Reading(tensors, Architecture("relu"), layout, hook, config=config or None, notes=notes)


def _rows(checkpoint: Checkpoint) -> _Rows:
    if checkpoint.has(NPY):
        return _of_matrix(checkpoint, NPY, None, "hidden state")
    if checkpoint.has("d"):
        return _of_matrix(checkpoint, "d", None, "block")
    if checkpoint.has("dirs"):
        blocks = checkpoint.source.integers("blocks", MOST) if checkpoint.has("blocks") else None
        return _of_matrix(checkpoint, "dirs", blocks, "block")
    notes = checkpoint.extras.get(GGUF)
    if isinstance(notes, Mapping) and notes.get(_ARCHITECTURE, "controlvector") != "controlvector":
        raise checkpoint.fail(f"this GGUF file holds a {quoted(notes[_ARCHITECTURE])}; give a control vector.")
    found = {int(match[1] or match[2]): name for name in checkpoint.header if (match := _NAMED.fullmatch(name))}
    if not found or len(found) != len(checkpoint.header):
        raise checkpoint.fail("it must hold tensors direction.N (or layerN.v) and no others, each of one layer.")
    names = [found[layer] for layer in sorted(found)]
    widths = {checkpoint.header[name].shape for name in names}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        raise checkpoint.fail(f"its directions must be vectors of one length, but have {quoted(sorted(widths))}.")
    [(d_in,)] = widths
    return _Rows(d_in, tuple(sorted(found)), "block", lambda place: checkpoint.source.whole(names[place]).float())


def _of_matrix(checkpoint: Checkpoint, name: str, blocks: Sequence[int] | None, kind: str) -> _Rows:
    """The rows of an array (n, d), or (d,) as one; `blocks` says of which each is, else its number where n > 1."""
    shape, source = checkpoint.header[name].shape, checkpoint.source
    if len(shape) not in (1, 2) or 0 in shape or (len(shape) == 2 and shape[0] > MOST):
        raise checkpoint.fail(
            f"{name} must be directions (n, width) or one of them, but has the shape {quoted(shape)}."
        )
    count = shape[0] if len(shape) == 2 else 1
    if blocks is not None and (len(blocks) != count or len(set(blocks)) != count or min(blocks) < 0):
        raise checkpoint.fail(f"blocks must name a block for each of the {count} directions, but has {quoted(blocks)}.")
    numbered = tuple(range(count)) if count > 1 and kind == "hidden state" else (None,) * count
    if len(shape) == 1:
        return _Rows(shape[0], tuple(blocks or (None,)), kind, lambda _: source.whole(name).float())
    return _Rows(shape[1], tuple(blocks or numbered), kind, lambda place: source.rows(name, [place])[0].float())


def _stacked(rows: _Rows, start: int, stop: int) -> Tensor:
    return torch.stack([rows.read(place) for place in range(start, stop)])


def _along(rows: _Rows, start: int, stop: int) -> Tensor:
    """Encoder rows: x · d / ‖d‖²; of a direction of no length, as a file may have for a state that is left alone, 0."""
    matrix = _stacked(rows, start, stop)
    return matrix / matrix.square().sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
