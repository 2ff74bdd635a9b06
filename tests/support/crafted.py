"""Files made to hurt: each once hung, crashed, took gigabytes, ran on with infinite numbers, or would if it could.

The cases register themselves when their modules are imported, as `cases()` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from layouts import D, F, K

Use = Callable[[], object]
Case = Callable[[Path], "Path | Use"]  # writes into a folder; gives a weight file to load, or what is to be tried
CASES: dict[str, Case] = {}
TEXT = "x" * 15_000_000
MARKS = "a\nb\u202ec\u2066d\x1be\0f\x7f\u2028"
RENY = {"features": D, "pages": F, "k": K, "sample": None}
TRAINER = {"trainer": {"dict_class": "AutoEncoder", "activation_dim": D, "dict_size": F}}


def cases() -> dict[str, Case]:
    """All of them by name."""
    import crafted_arrays
    import crafted_nested
    import crafted_numbers
    import crafted_sizes
    import crafted_texts
    import crafted_words

    assert all((crafted_arrays, crafted_nested, crafted_numbers, crafted_sizes, crafted_texts, crafted_words))
    return CASES


def case(name: str) -> Callable[[Case], Case]:
    def add(make: Case) -> Case:
        assert name not in CASES, name
        CASES[name] = make
        return make

    return add


def written(folder: Path, name: str, config: Any) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / name).write_text(text, encoding="utf-8")


def safetensors(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=metadata)
    return path


def header(path: Path, text: bytes, rest: bytes = b"") -> Path:
    path.write_bytes(len(text).to_bytes(8, "little") + text + rest)
    return path
