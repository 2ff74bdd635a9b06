"""Checkpoints of every layout with random weights, and what they must compute, written from the layouts' description.

Nothing here uses the pack: codes f and reconstructions are plain dense formulas over the stored tensors.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import save_file
from torch import Tensor

D, F, K = 10, 32, 4
Codes = Callable[[Tensor], Tensor]


@dataclass
class Case:
    """One checkpoint: its content and its formulas."""

    file: str
    state: dict[str, Any]
    codes: Codes  # x (n, D) -> f (n, F)
    rows: Tensor  # (F, D): what x̂ gains when a feature grows by 1
    bias: Tensor  # (D,): what decoding adds
    configs: dict[str, Any] = field(default_factory=dict)
    architecture: str = "auto"
    sigma: float | None = None
    normalised: str | None = None  # layer_norm or constant_norm
    site: str | None = None
    line: dict[str, Any] | None = None  # a JSON line before the pickle

    def write(self, folder: Path) -> Path:
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, config in self.configs.items():
            (folder / name).write_text(json.dumps(config), encoding="utf-8")
        if path.suffix == ".safetensors":
            save_file({key: value.contiguous() for key, value in self.state.items()}, path)
            return path
        if path.suffix == ".npz":
            numpy.savez(path, **{key: value.numpy() for key, value in self.state.items()})
            return path
        buffer = io.BytesIO()
        torch.save(self.state, buffer)
        head = b"" if self.line is None else json.dumps(self.line).encode() + b"\n"
        path.write_bytes(head + buffer.getvalue())
        return path

    def expected(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(f, x̂) of tokens x (n, D)."""
        scale, shift, divisor = torch.ones(len(x), 1), torch.zeros(len(x), 1), torch.ones(len(x), 1)
        if self.normalised == "layer_norm":
            shift, scale = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
            divisor = scale + 1e-5
        if self.normalised == "constant_norm":
            scale = divisor = x.norm(dim=-1, keepdim=True) / D**0.5
        f = self.codes((x - shift) / divisor)
        return f, (f @ self.rows + self.bias) * scale + shift


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape) * scale


def top(pre: Tensor, k: int = K) -> Tensor:
    """The k largest of each row, zero elsewhere."""
    return torch.where(pre >= pre.sort(-1).values[:, -k, None], pre, 0.0)


def above(pre: Tensor, threshold: Tensor | float) -> Tensor:
    return pre * (pre > threshold)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def linear(bias: str, encoder_bias: str) -> dict[str, Tensor]:
    """nn.Linear weights: encoder (F, D), decoder (D, F)."""
    torch.manual_seed(7)
    state = {bias: draw(D), encoder_bias: draw(F), "encoder.weight": draw(F, D)}
    return {**state, "decoder.weight": draw(D, F, scale=0.6)}


def matrices() -> dict[str, Tensor]:
    torch.manual_seed(8)
    return {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D, scale=0.6), "b_dec": draw(D, scale=0.5)}


def pre_linear(t: dict[str, Any], bias: str | None, encoder_bias: str) -> Codes:
    return lambda x: (x - (0 if bias is None else t[bias])) @ t["encoder.weight"].T + t[encoder_bias]


def pre_matrices(t: dict[str, Any], subtract: bool = True, biased: bool = True) -> Codes:
    return lambda x: (x - (t["b_dec"] if subtract else 0)) @ t["W_enc"] + (t["b_enc"] if biased else 0)


def gated(t: dict[str, Any], e: Codes, gate: str, magnitude: str) -> Codes:
    return lambda x: (e(x) + t[gate] > 0) * torch.relu(e(x) * t["r_mag"].exp() + t[magnitude])
