"""How strongly and how often each feature fires: the numbers behind the units `mean` and `max`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SUFFIX = ".stats.safetensors"


@dataclass(frozen=True)
class FeatureStatistics:
    """Per-feature statistics over `tokens` tokens, each tensor (d_sae,) float32."""

    mean: Tensor  # mean activation over the tokens where the feature fires, 0 where it never did
    max: Tensor  # largest activation seen
    density: Tensor  # share of tokens where it fires
    tokens: int

    @property
    def dead(self) -> Tensor:
        """(d_sae,) bool: features that never fired."""
        return self.density == 0


def statistics_path(weights: Path) -> Path:
    """Where the statistics of a checkpoint stand: beside it, with the same stem."""
    return weights.with_name(weights.stem + SUFFIX)


def write_statistics(statistics: FeatureStatistics, path: Path) -> None:
    tensors = {name: getattr(statistics, name).float().cpu().contiguous() for name in ("mean", "max", "density")}
    save_file(tensors, path, metadata={"tokens": str(statistics.tokens)})


def read_statistics(path: Path) -> FeatureStatistics:
    """Reads `<stem>.stats.safetensors`; ValueError when it is broken or its tensors do not fit each other."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tokens = int((file.metadata() or {}).get("tokens", "0"))
            mean, peak, density = (file.get_tensor(name).float() for name in ("mean", "max", "density"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path.name}: the statistics file cannot be read ({error}); it needs the tensors mean, max and density."
        ) from error
    if not (mean.ndim == 1 and mean.shape == peak.shape == density.shape):
        shapes = ", ".join(str(tuple(t.shape)) for t in (mean, peak, density))
        raise ValueError(
            f"{path.name}: mean, max and density must be vectors of one length, but have the shapes {shapes}."
        )
    if not all(torch.isfinite(t).all() for t in (mean, peak, density)):
        raise ValueError(f"{path.name}: the statistics hold NaN or infinite values; only finite ones are accepted.")
    return FeatureStatistics(mean, peak, density, tokens)
