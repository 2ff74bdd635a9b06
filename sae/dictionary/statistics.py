"""How strongly and how often each feature fires: the numbers behind the units `mean` and `max`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files.quote import quoted, shown
from ..files.safetensors_file import open_safetensors, write_whole
from .owner import Owner

SUFFIX = ".stats.safetensors"
NAMES = ("mean", "max", "density")


@dataclass(frozen=True)
class FeatureStatistics:
    """Per-feature statistics over `tokens` tokens (0: not told), each tensor (d_sae,) float32 or None if not known."""

    mean: Tensor | None  # mean activation over the tokens where the feature fires, 0 where it never did
    max: Tensor | None  # largest activation seen
    density: Tensor | None  # share of tokens where it fires
    tokens: int
    owner: Owner | None = None  # the SAE they were measured on, where the file says so

    @property
    def count(self) -> int:
        """The number of features."""
        return next((len(tensor) for tensor in (self.mean, self.max, self.density) if tensor is not None), 0)

    @property
    def dead(self) -> Tensor:
        """(d_sae,) bool: features that never fired; none where the density is not known."""
        return torch.zeros(self.count, dtype=torch.bool) if self.density is None else self.density == 0


def statistics_path(weights: Path) -> Path:
    """Where the statistics of a checkpoint stand: beside it, with the same stem."""
    return weights.with_name(weights.stem + SUFFIX)


def write_statistics(statistics: FeatureStatistics, path: Path, owner: Owner | None = None) -> None:
    """Writes what is known as `<stem>.stats.safetensors`, with the SAE whose it is."""
    known = {name: getattr(statistics, name) for name in NAMES if getattr(statistics, name) is not None}
    tensors = {name: tensor.float().cpu().contiguous() for name, tensor in known.items()}
    whose = {} if owner is None else asdict(owner)
    write_whole(path, tensors, {"tokens": str(statistics.tokens), **whose})


def read_statistics(path: Path) -> FeatureStatistics:
    """Reads `<stem>.stats.safetensors`; ValueError when it is broken or its tensors do not fit each other."""
    source, metadata = open_safetensors(path)
    tokens = metadata.get("tokens", "0")
    known = {name: source.whole(name).float() for name in NAMES if name in source.infos}
    if not known or not tokens.isdecimal() or len(tokens) > 18:
        raise ValueError(
            f"{shown(path.name)}: the statistics file needs one of the tensors mean, max and density, and a whole "
            f"number of "
            f"tokens in its metadata; measure the statistics again or remove the file."
        )
    shapes = {tuple(tensor.shape) for tensor in known.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        found = ", ".join(quoted(shape) for shape in sorted(shapes))
        raise ValueError(
            f"{shown(path.name)}: mean, max and density must be vectors of one length, but have the shapes {found}."
        )
    owner = Owner(metadata["identity"], metadata.get("name", "")) if "identity" in metadata else None
    return FeatureStatistics(known.get("mean"), known.get("max"), known.get("density"), int(tokens), owner)
