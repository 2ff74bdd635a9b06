"""The linear code of a drawing: each patch of 16×16 pixels in 64 numbers, 16 channels of 2×2 cells to FLUX.

The numbers are the patches' principal components, the largest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

PATCH = 16  # pixels, both sides
NUMBERS = 64  # of a patch
FLATTENING = 0.5  # 0 leaves the components' standard deviations as they are, 1 makes all equal
SAMPLE = 200_000  # patches that the code is fitted on


@dataclass(frozen=True)
class LinearCode:
    """mean (768,), directions (64, 768) orthonormal, scales (64,): what a component is divided by."""

    mean: Tensor
    directions: Tensor
    scales: Tensor

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (batch, 3, h, w) in 0..1, h and w multiples of 16, to tokens (batch, h/16 · w/16, 64)."""
        return (patches_of(pictures) - self.mean) @ self.directions.T / self.scales

    def decode(self, tokens: Tensor, rows: int = 8) -> Tensor:
        """Tokens (batch, rows · columns, 64) to pictures (batch, 3, 16 · rows, 16 · columns), about 0..1."""
        patches = (tokens * self.scales) @ self.directions + self.mean
        return functional.pixel_shuffle(patches.mT.unflatten(2, (rows, -1)), PATCH)

    def save(self, path: Path) -> None:
        save_file({"mean": self.mean, "directions": self.directions, "scales": self.scales}, path)

    @classmethod
    def load(cls, path: Path) -> LinearCode:
        return cls(**load_file(path))


def patches_of(pictures: Tensor) -> Tensor:
    """Pictures (batch, 3, h, w) to (batch, h/16 · w/16, 768), row-major."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] % PATCH or pictures.shape[3] % PATCH:
        raise ValueError(
            f"pictures: the code takes (batch, 3, height, width) with sides that are multiples of {PATCH}, "
            f"but got {tuple(pictures.shape)}."
        )
    return functional.pixel_unshuffle(pictures, PATCH).flatten(2).mT


def fit_code(pictures: Tensor, seed: int = 0) -> LinearCode:
    """The principal components of pictures (n, 3, h, w) in 0..1; numbers of variance 1 on the whole."""
    patches = patches_of(pictures).flatten(0, 1)
    chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))[:SAMPLE]
    patches = patches[chosen].double()
    mean = patches.mean(0)
    centred = patches - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    variances, directions = variances.flip(0)[:NUMBERS], vectors.T.flip(0)[:NUMBERS]
    scales = variances.pow(FLATTENING / 2)
    scales = scales * (variances / scales.square()).mean().sqrt()
    return LinearCode(mean.float(), directions.float().contiguous(), scales.float())


def pack(latents: Tensor) -> Tensor:
    """Latents (batch, 16, h, w), h and w even, to tokens (batch, h/2 · w/2, 64), as FLUX does."""
    return functional.pixel_unshuffle(latents, 2).flatten(2).mT


def unpack(tokens: Tensor, rows: int = 8) -> Tensor:
    """The inverse of pack: (batch, rows · columns, 64) to (batch, 16, 2 · rows, 2 · columns)."""
    return functional.pixel_shuffle(tokens.mT.unflatten(2, (rows, -1)), 2)
