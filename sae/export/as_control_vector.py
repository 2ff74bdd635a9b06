"""Contrast directions for other tools: control vectors in GGUF, or .npz; formats/foreign_directions.py reads both.

Both hold the positive side's direction of each place alone, without the middle that a contrast's codes need.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..files.gguf_file import write_gguf
from ..files.whole import replacing
from ..formats.provenance import provenance

Form = Literal["gguf", "npz"]
FORMS: tuple[Form, ...] = get_args(Form)
_LAYER = re.compile(r"layer_(\d{1,4})(?!\d)")


def write_directions(dictionaries: Sequence[SparseAutoencoder], path: Path, form: str) -> Path:
    """Writes feature 0 of each dictionary at its block's number into `path` with the form's suffix, which it returns.

    ValueError where a place has no block, or two have one, and where a file is there already.
    """
    if form not in FORMS:
        raise ValueError(f"format: {form!r} is none; use one of {', '.join(FORMS)}.")
    file = path.with_name(f"{path.name}.{form}")
    if file.exists():
        raise ValueError(f"name: {file.name} is there already; choose another name or remove it.")
    blocks = [_block(dictionary, form) for dictionary in dictionaries]
    twice = next((block for block in blocks if block is not None and blocks.count(block) > 1), None)
    if twice is not None or (None in blocks and len(blocks) > 1):
        where = f"block {twice}" if twice is not None else "a place without a block"
        raise ValueError(
            f"format: {form} has one direction for each block, but several are of {where}; keep safetensors."
        )
    rows = {block: dictionary.direction([0])[0] for block, dictionary in zip(blocks, dictionaries, strict=True)}
    file.parent.mkdir(parents=True, exist_ok=True)
    if form == "gguf":
        model = provenance(dictionaries[0]).get("model", "")
        notes = {"general.architecture": "controlvector", "controlvector.model_hint": model}
        numbers = [block for block in blocks if block is not None]
        layers = {"controlvector.layer_count": max(numbers) + 1}
        write_gguf(
            file, {f"direction.{block}": row for block, row in sorted(rows.items(), key=str)}, {**notes, **layers}
        )
    else:
        _write_npz(file, rows)
    return file


def _block(dictionary: SparseAutoencoder, form: str) -> int | None:
    if dictionary.site is not None and len(dictionary.site.blocks) == 1:
        return dictionary.site.blocks[0]
    found = _LAYER.findall(dictionary.name)
    if not found and form == "gguf":
        raise ValueError(
            f"format: gguf keeps a direction under its block's number, but {dictionary.name} tells none; use npz."
        )
    return int(found[-1]) if found else None


def _write_npz(file: Path, rows: dict[int | None, Tensor]) -> None:
    import numpy

    with replacing(file) as part, part.open("wb") as out:
        if None in rows:
            numpy.savez(out, d=rows[None].numpy())
        else:
            directions = torch.stack(list(rows.values())).numpy()
            numpy.savez(out, dirs=directions, blocks=numpy.array(list(rows), dtype="int64"))
