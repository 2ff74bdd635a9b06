"""Writes an SAE in another layout. What a target cannot hold exactly is refused, not dropped."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.statistics import statistics_path, write_statistics
from ..formats import load
from ..formats.named_tensors import BESIDE, SUFFIXES
from . import as_dictionary_learning, as_own, as_reny_topk, as_saelens
from .tensor_plan import Layout, Progress, write_tensors

__all__ = ["TARGETS", "Progress", "export"]


class Target(Protocol):
    """A module in this folder. Adding a target is one such module and one entry in _TARGETS."""

    @property
    def WEIGHTS(self) -> str:  # noqa: N802
        """Name of the weight file."""

    @property
    def CONFIG(self) -> str | None:  # noqa: N802
        """Name of the config beside it, None where there is none."""

    def refuse(self, sae: SparseAutoencoder) -> str | None:
        """Why this layout cannot hold the SAE, or None."""

    def layout(self, sae: SparseAutoencoder, dtype: torch.dtype | None) -> Layout:
        """What its files will hold."""


_TARGETS: Mapping[str, Target] = {
    "sae_steering": as_own,
    "saelens": as_saelens,
    "reny_topk": as_reny_topk,
    "dictionary_learning": as_dictionary_learning,
}
TARGETS: tuple[str, ...] = tuple(_TARGETS)


def export(
    sae: SparseAutoencoder,
    folder: Path,
    target: str,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    replace: bool = False,
) -> Path:
    """Writes the SAE, its config and what is known of its features into `folder`; returns the weight file's path.

    Codes and reconstructions stay the same; with a `dtype` they lose its precision, without one matrices keep their
    stored type. A safetensors file takes the memory of one matrix, ae.pt that of all. Raises ValueError, one sentence,
    where the target cannot hold the SAE, and where the folder has another checkpoint, unless `replace` is set. When it
    fails or `progress` raises, the weight file is as it was before.
    """
    if target not in _TARGETS:
        raise ValueError(f"target: {target!r} is not a layout to write; use one of {', '.join(TARGETS)}.")
    module = _TARGETS[target]
    reason = module.refuse(sae)
    if reason is not None:
        able = [name for name, other in _TARGETS.items() if other.refuse(sae) is None]
        raise ValueError(f"target: {target} cannot hold {sae.name}: {reason}; use {' or '.join(able)}.")
    path = folder / module.WEIGHTS
    if not replace:
        _refuse_other_files(folder, module)
    layout = module.layout(sae, dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(sae, layout, path, module.CONFIG, progress, replace)
    except OSError as error:
        raise ValueError(f"folder: {folder} cannot be written ({error.strerror}); choose another.") from error
    return path


def _refuse_other_files(folder: Path, module: Target) -> None:
    """Whatever is in the folder must be what is about to be written; the weights are compared once they are."""
    if not folder.is_dir():
        if folder.exists():
            raise ValueError(f"folder: {folder} is a file; give a folder.")
        return
    names = {file.name for file in folder.iterdir()}
    weights = {name for name in names if Path(name).suffix in SUFFIXES and not BESIDE.fullmatch(name)}
    configs = names & {_sidecar(module.WEIGHTS), *(other.CONFIG for other in _TARGETS.values())}
    foreign = weights - {module.WEIGHTS} | configs - {module.CONFIG}
    if module.WEIGHTS not in names:  # then these belong to something else
        foreign |= names & {module.CONFIG, statistics_path(Path(module.WEIGHTS)).name}
    if foreign:
        raise _occupied(folder, min(foreign))


def _sidecar(weights: str) -> str:
    """A config of this name would be read in place of the layout's own."""
    return Path(weights).with_suffix(".json").name


def _occupied(folder: Path, name: str) -> ValueError:
    return ValueError(f"folder: {folder} already holds another {name}; choose another folder or remove it.")


def _write(
    sae: SparseAutoencoder, layout: Layout, path: Path, config: str | None, progress: Progress | None, replace: bool
) -> None:
    text = None if layout.config is None else json.dumps(layout.config, indent=2) + "\n"
    beside = path if config is None else path.with_name(config)
    existing = path.exists() and not replace
    if existing and text is not None and beside.is_file() and beside.read_bytes() != text.encode():
        raise _occupied(path.parent, beside.name)
    part = path.with_name(f"{path.name}.part")
    try:
        write_tensors(part, path.suffix, layout.tensors, layout.metadata, progress)
        if existing and not filecmp.cmp(part, path, shallow=False):
            raise _occupied(path.parent, path.name)
        if text is not None:
            beside.write_bytes(text.encode())
        _write_statistics(sae, statistics_path(path), replace)
        if not existing:
            part.replace(path)  # last, so that a weight file is never without what belongs to it
        if sae.statistics is not None:  # the file's own content is known only now
            write_statistics(sae.statistics, statistics_path(path), load(path).owner)
    finally:
        part.unlink(missing_ok=True)


def _write_statistics(sae: SparseAutoencoder, path: Path, replace: bool) -> None:
    if sae.statistics is not None:
        write_statistics(sae.statistics, path)
    elif replace:
        path.unlink(missing_ok=True)  # those of the SAE that was here before
