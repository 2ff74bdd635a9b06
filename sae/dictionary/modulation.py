"""Codes that depend on the noise level: before encoding, x becomes x · (1 + scale(t)) + shift(t).

Source: DifFRACT (github.com/Artalmaz31/DifFRACT). A sinusoidal embedding of t goes through Linear, SiLU, Linear, SiLU
and one more Linear, whose output is scale and shift. t is what diffusers passes as `timestep`: for FLUX, sigma in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..files.quote import quoted
from ..files.tensors import LARGEST, largest_size
from .activations import TokenFrame

MAX_PERIOD = 10_000
TENSORS = tuple(
    f"{layer}.{part}" for layer in ("time_mlp.0", "time_mlp.2", "mod_linear") for part in ("weight", "bias")
)


@dataclass(frozen=True)
class Modulation:
    """The layers, float32 on the CPU, under the names in TENSORS: width e of the embedding, (2 d_in, e) at the end."""

    tensors: Mapping[str, Tensor]

    def check(self, d_in: int, label: str) -> None:
        """Raises ValueError when the shapes contradict each other or the SAE's width."""
        e = len(self.tensors["time_mlp.0.bias"]) if self.tensors["time_mlp.0.bias"].ndim == 1 else 0
        wanted = {
            "time_mlp.0.weight": (e, e), "time_mlp.0.bias": (e,), "time_mlp.2.weight": (e, e), "time_mlp.2.bias": (e,),
            "mod_linear.weight": (2 * d_in, e), "mod_linear.bias": (2 * d_in,),
        }  # fmt: skip
        for key, shape in wanted.items():
            if tuple(self.tensors[key].shape) != shape or e < 2:
                raise ValueError(
                    f"{label}: {key} has the shape {quoted(tuple(self.tensors[key].shape))}, which does not fit "
                    f"activations of "
                    f"width {d_in} and a time embedding of width {e}."
                )
        largest = largest_size(self._layers(torch.tensor([0.0, 0.5, 1.0]), torch.device("cpu")))
        if not largest <= LARGEST:
            raise ValueError(
                f"{label}: its layers for the noise level come to {largest:.3g}, where all beyond {LARGEST:g} "
                f"overflows; download or export the file again."
            )

    def frame(self, sigma: float | Tensor, x: Tensor) -> TokenFrame:
        """1 + scale and shift for the tokens of x (..., d_in): (1 or tokens, d_in), on the device of x.

        `sigma` is one number, one for each row of the batch (first dimension of x), or one for each token.
        """
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        mod = self._layers(levels.reshape(-1), x.device)
        if levels.numel() > 1:
            shape = x.shape[:-1]
            index = torch.arange(levels.numel(), device=x.device)
            index = index.view(*levels.shape, *[1] * (len(shape) - levels.ndim)).expand(shape)
            mod = mod[index.reshape(-1)]
        scale, shift = mod.chunk(2, dim=-1)
        return TokenFrame(1 + scale, shift)

    def _layers(self, levels: Tensor, device: torch.device) -> Tensor:
        """(n,) -> (n, 2 d_in)"""
        layers = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        hidden = _embedding(levels, len(layers["time_mlp.0.bias"]))
        for name in ("time_mlp.0", "time_mlp.2"):
            hidden = functional.silu(functional.linear(hidden, layers[f"{name}.weight"], layers[f"{name}.bias"]))
        return functional.linear(hidden, layers["mod_linear.weight"], layers["mod_linear.bias"])


def _embedding(levels: Tensor, width: int) -> Tensor:
    """(n,) -> (n, width): sines, then cosines, as diffusers' get_timestep_embedding has them by default."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=levels.device)
    angles = levels[:, None] * torch.exp(-math.log(MAX_PERIOD) * steps / max(half - 1, 1))
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return functional.pad(waves, (0, width % 2))
