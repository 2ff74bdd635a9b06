"""What lab.bench.training trains: tokens and sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize

from sae.commands.train_settings import Settings
from sae.commands.train_sources import build_source

HELD_OUT = 4_096  # tokens


@dataclass(frozen=True)
class Made:
    """Tokens that each contestant makes on its device, out of a seed; trainers/paced.py has how."""

    d_in: int
    d_sae: int
    directions: int
    active: int  # directions of a token
    tokens: int
    held_out: int = HELD_OUT
    seed: int = 1


@dataclass(frozen=True)
class Size:
    """What is trained."""

    name: str
    tokens: Tensor | Made  # (n, d_in), in the order in which all see them
    d_sae: int
    k: int
    batch: int
    steps: int
    rate: float

    def write(self, folder: Path, device: str = "cpu") -> None:
        """What trainers/paced.py reads: the case, and the tokens and where all begin unless these are made there."""
        made = asdict(self.tokens) if isinstance(self.tokens, Made) else None
        # one step more than is made: no loop comes to its end
        facts = {
            "k": self.k, "batch": self.batch, "steps": self.steps + 1, "rate": self.rate, "device": device, "made": made
        }  # fmt: skip
        (folder / "case.json").write_text(json.dumps(facts), encoding="utf-8")
        if isinstance(self.tokens, Tensor):
            save_file(_tensors(self.tokens, self.d_sae), folder / "tokens.safetensors")

    def __str__(self) -> str:
        d_in = self.tokens.d_in if isinstance(self.tokens, Made) else self.tokens.shape[1]
        return f"{self.name}: {d_in:,} → {self.d_sae:,}, k {self.k}, batches of {self.batch:,}"


def _tensors(tokens: Tensor, d_sae: int) -> dict[str, Tensor]:
    """Tokens of mean 0 and variance 1, so that no library has to bring them there, and where all begin."""
    x = tokens - tokens.mean(dim=0)
    x /= x.square().mean().sqrt()
    random = torch.Generator().manual_seed(0)
    decoder = normalize(torch.randn(d_sae, x.shape[1], generator=random), dim=1)
    return {"tokens": x[HELD_OUT:].clone(), "held_out": x[:HELD_OUT].clone(), "decoder": decoder}


def wide(steps: int) -> Size:
    """Tokens that are sums of 24 of 4,096 directions, with some noise: 512 → 8,192."""
    random = torch.Generator().manual_seed(1)
    directions = normalize(torch.randn(4_096, 512, generator=random), dim=1)
    parts = []
    for _ in range(HELD_OUT // 1_024 + steps):
        chosen = torch.randint(0, 4_096, (1_024, 24), generator=random)
        strengths = 0.5 + torch.rand(1_024, 24, generator=random)
        sums = functional.embedding_bag(chosen, directions, per_sample_weights=strengths, mode="sum")
        parts.append(sums + 0.01 * torch.randn(1_024, 512, generator=random))
    return Size("wide", torch.cat(parts), 8_192, 32, 1_024, steps, 1e-3)


def large(steps: int) -> Size:
    """For a GPU: 3,072 → 49,152, as an SAE of FLUX is; tokens like those of `wide`, a gigabyte, twice over."""
    made = Made(3_072, 49_152, directions=24_576, active=24, tokens=20 * 4_096)
    return Size("large", made, made.d_sae, 32, 4_096, steps, 1e-3)


def shapes(steps: int) -> Size:
    """The text stream of block 0 of the demo FLUX, as docs/training-shapes.toml trains it: 128 → 256."""
    source, parts, number = build_source(Settings(source="shapes")), [], 0
    (name,) = source.sites
    while sum(map(len, parts)) < HELD_OUT + 16_384:
        parts.append(source.training(number)[name].tokens.float())
        number += 1
    every = torch.cat(parts)
    mixed = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(2))]
    return Size("Shapes", mixed[: HELD_OUT + 16_384], 256, 16, 1_024, 10 * steps, 2e-3)


SIZES: dict[str, Callable[[int], Size]] = {"wide": wide, "shapes": shapes, "large": large}
ON_CPU, ON_GPU = ("wide", "shapes"), ("large", "wide")  # what is trained unless others are named
