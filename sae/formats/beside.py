"""Statistics that lie beside a checkpoint: our own file, sdxl-unbox's mean.pt, SAELens' sparsity.safetensors."""

from __future__ import annotations

from copy import copy
from pathlib import Path

from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.statistics import FeatureStatistics, read_statistics, statistics_path
from ..files.pickle_file import open_tensor
from ..files.quote import AllowedFolders, quoted, shown
from ..files.safetensors_file import open_safetensors
from . import sdxl_unbox
from .named_tensors import stem_of

SPARSITY = "sparsity.safetensors"  # SAELens: the decimal logarithm of each feature's density, plus a trifle
SPARSITY_FLOOR = 1e-10  # the trifle
MEAN = "mean.pt"  # sdxl-unbox: each feature's mean activation, saved on a GPU


def read_statistics_beside(path: Path, sae: SparseAutoencoder, allowed: AllowedFolders) -> FeatureStatistics | None:
    """What is known of the SAE's features; our own file comes before other projects'."""
    own = statistics_path(path.with_name(stem_of(path) + path.suffix))
    known = [(own, read_statistics), (path.with_name(SPARSITY), _read_sparsity)]
    if sae.origin is not None and sae.origin.layout == sdxl_unbox.LAYOUTS:
        known.append((path.with_name(MEAN), _read_mean))
    for file, read in known:
        if not file.is_file():
            continue
        allowed.check(file, sae.name)
        statistics = read(file)
        check_statistics(statistics, file, sae)
        return statistics
    return None


def check_statistics(statistics: FeatureStatistics, file: Path, sae: SparseAutoencoder) -> None:
    """Raises ValueError when the statistics are of another SAE, or of another number of features."""
    if statistics.owner is not None:
        sae.owner.check(statistics.owner, f"{shown(file.name)}: these statistics belong")
    if statistics.count != sae.d_sae:
        raise ValueError(
            f"{shown(file.name)}: the statistics are of {statistics.count} features, but {sae.name} has "
            f"{sae.d_sae}; measure "
            f"them again or remove the file."
        )


def with_statistics(sae: SparseAutoencoder, file: Path) -> SparseAutoencoder:
    """The same SAE with the statistics of a file in our own format."""
    statistics = read_statistics(file)
    check_statistics(statistics, file, sae)
    measured = copy(sae)
    measured.statistics = statistics
    return measured


def _read_mean(path: Path) -> FeatureStatistics:
    return FeatureStatistics(mean=_vector(open_tensor(path, shown(path.name)), path), max=None, density=None, tokens=0)


def _read_sparsity(path: Path) -> FeatureStatistics:
    source, _ = open_safetensors(path)
    if "sparsity" not in source.infos:
        raise ValueError(
            f"{shown(path.name)}: the statistics file lacks the tensor 'sparsity'; remove it or export it again."
        )
    density = (10 ** _vector(source.whole("sparsity"), path) - SPARSITY_FLOOR).clamp(0, 1)
    return FeatureStatistics(mean=None, max=None, density=density, tokens=0)


def _vector(values: Tensor, path: Path) -> Tensor:
    if values.ndim != 1:
        raise ValueError(
            f"{shown(path.name)}: it must hold one number for each feature, but has the shape "
            f"{quoted(tuple(values.shape))}."
        )
    return values.float()
