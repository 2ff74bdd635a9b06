"""Checkpoint layouts: one module per family, found by the tensors' names and the config beside the file."""

from __future__ import annotations

import json
from pathlib import Path

from ..autoencoder import SparseAutoencoder
from ..site import site_from_name
from ..statistics import FeatureStatistics, read_statistics, statistics_path
from ..tensors import TensorFile
from ..weights import Weights
from . import reny, saelens
from .checkpoint import Checkpoint, Config, Family, Header

FAMILIES: tuple[Family, ...] = (reny, saelens)

WEIGHT_SUFFIX = ".safetensors"
_TRANSCODER_TENSORS = ("W_skip", "b_dec_out")
_TRANSCODER_FLAGS = ("is_transcoder", "transcode")
_LORA_MARKS = ("lora_", ".lora.", "lokr_", "hada_")


def load(path: Path, name: str | None = None) -> SparseAutoencoder:
    """Opens the SAE in a weight file; its config and statistics are read from beside it, its weights when used.

    `name` is the file's path inside models/sae, with or without the suffix; its folders may tell the site. Raises
    ValueError, one sentence naming the file, for anything that is not a sound SAE of a known layout.
    """
    own_name = (name or f"{path.parent.name}/{path.name}").removesuffix(path.suffix)
    name = own_name + path.suffix  # as messages call the file
    if path.suffix != WEIGHT_SUFFIX:
        raise ValueError(f"{name}: a {path.suffix or 'file without suffix'} is not read; give a {WEIGHT_SUFFIX} file.")
    source = TensorFile(path, name)
    configs = {family.CONFIG_NAME: _read_config(_config_path(path, family), name) for family in FAMILIES}
    _refuse_others(name, source.infos, list(configs.values()))
    family = _find_family(name, source.infos, configs)
    checkpoint = Checkpoint(path, name, source, configs[family.CONFIG_NAME])
    reading = family.read(checkpoint)
    weights = Weights(reading.tensors, reading.architecture)
    site = (site_from_name(reading.hook) if reading.hook else None) or site_from_name(own_name)
    sae = SparseAutoencoder(weights, name=own_name, site=site)
    sae.statistics = _read_statistics(path, sae)
    return sae


def _config_path(path: Path, family: Family) -> Path:
    """`<stem>.json` where several SAEs share a folder, else the family's own name for it."""
    own = path.with_suffix(".json")
    return own if own.is_file() else path.with_name(family.CONFIG_NAME)


def _read_config(path: Path, name: str) -> Config | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {path.name} beside it cannot be read as JSON ({error}).") from error
    if not isinstance(config, dict):
        raise ValueError(f"{name}: {path.name} beside it must hold a JSON object, but holds a {type(config).__name__}.")
    return config


def _find_family(name: str, header: Header, configs: dict[str, Config | None]) -> Family:
    for family in FAMILIES:
        if family.matches(header, configs[family.CONFIG_NAME]):
            return family
    found = ", ".join(sorted(header)[:4]) or "none"
    layouts = " and ".join(family.LAYOUTS for family in FAMILIES)
    raise ValueError(f"{name}: its tensors ({found}, ...) are of no SAE layout that is read; known are {layouts}.")


def _refuse_others(name: str, header: Header, configs: list[Config | None]) -> None:
    """Files that hold something else than an SAE."""
    if any(mark in key for key in header for mark in _LORA_MARKS):
        raise ValueError(f"{name}: this is a LoRA, not an SAE; load it with a LoRA loader and give an SAE here.")
    transcoder = any(key in header for key in _TRANSCODER_TENSORS)
    for config in filter(None, configs):
        d_in = config.get("d_in")
        transcoder |= any(config.get(flag) for flag in _TRANSCODER_FLAGS)
        transcoder |= "transcoder" in str(config.get("architecture", ""))
        transcoder |= d_in is not None and config.get("d_out", d_in) != d_in
    if transcoder:
        raise ValueError(
            f"{name}: this is a transcoder, which predicts another layer's activations; only SAEs, which reconstruct "
            f"their own input, are accepted."
        )


def _read_statistics(path: Path, sae: SparseAutoencoder) -> FeatureStatistics | None:
    beside = statistics_path(path)
    if not beside.is_file():
        return None
    statistics = read_statistics(beside)
    if len(statistics.mean) != sae.d_sae:
        raise ValueError(
            f"{beside.name}: the statistics are of {len(statistics.mean)} features, but {sae.name} has {sae.d_sae}; "
            f"measure them again or remove the file."
        )
    return statistics
