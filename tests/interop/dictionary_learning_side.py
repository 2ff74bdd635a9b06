"""Run by the Python that has dictionary_learning: `python dictionary_learning_side.py FOLDER`.

Imports nothing of this project. Loads FOLDER/exports/*/ with dictionary_learning's own loader and encodes
FOLDER/x.safetensors; codes and reconstructions are in FOLDER/results, the classes' names in FOLDER/told.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

# What it reads language models and their texts with: large, and not used here.
for unused in ("datasets", "nnsight", "zstandard"):
    sys.modules[unused] = MagicMock()

import torch  # noqa: E402
from dictionary_learning.utils import load_dictionary  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


@torch.no_grad()
def main(folder: Path) -> None:
    x = load_file(folder / "x.safetensors")["x"]
    (folder / "results").mkdir()
    told = {}
    for path in sorted((folder / "exports").iterdir()):
        sae, _ = load_dictionary(str(path), "cpu")
        f = sae.encode(x)
        save_file({"f": f.contiguous(), "xhat": sae.decode(f).contiguous()}, folder / "results" / path.name)
        told[path.name] = type(sae).__name__
    (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
