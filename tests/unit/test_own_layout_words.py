"""The description in the header of our own layout: every word that decides is read, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from config_cases import ADDED, largest, like_saelens
from layouts import D, F, K, draw, matrices, pre_matrices
from sae.export import export
from sae.formats import load

REFUSED = "refused"


def test_our_own_layout_keeps_to_its_description(tmp_path: Path) -> None:
    """Its words stand in the header, where `architecture` has those that decide."""
    source = load(like_saelens(d_in=D, d_sae=F, architecture="topk", k=K).write(tmp_path / "source"))
    path = export(source, tmp_path / "own", "sae_steering")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    described, x = json.loads(metadata["sae"]), draw(20, D)
    wanted = source.encode(x)

    def read(change: dict[str, Any], **architecture: Any) -> Any:
        kept = {**described["architecture"], **architecture}
        inner = {key: value for key, value in kept.items() if value != REFUSED}
        text = json.dumps({**described, "architecture": inner, **change})
        save_file(tensors, tmp_path / "mutated.safetensors", metadata={**metadata, "sae": text})
        return load(tmp_path / "mutated.safetensors")

    for architecture in (
        {"k": REFUSED}, {"kind": REFUSED}, {"kind": "relu"}, {"kind": "jumprelu"}, {"kind": "gelu"}, {"signed": True},
        {"normalization": "batch"}, {"decoder_norm": "twice"}, {"rectify": "yes"}, {"kk": 4}, {"k": "4"}, {"k": 10**6},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="mutated"):
            read({}, **architecture)
    for name, value in ADDED.items():
        if name not in ("architecture", "unheard_of"):
            with pytest.raises(ValueError, match=f"has {name} = |must give transcoder"):
                read({name: value})
    assert "unheard_of" in read({"unheard_of": 7}).origin.notes[0]
    for dropped in ("rectify", "normalization", "decoder_norm"):  # their defaults
        assert torch.equal(read({}, **{dropped: REFUSED}).encode(x), wanted)
    assert torch.equal(read({}, kind="signed_topk").encode(x), largest(pre_matrices(matrices())(x)))
    assert not torch.equal(read({}, normalization="layer_norm").encode(x), wanted)
