"""cfg.json of SAELens, whichever version wrote it, in the terms of version 6."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..dictionary.activations import Normalization
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config

CONFIG_NAME = "cfg.json"
NORMALIZATIONS: dict[str, Normalization] = {
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}
_DATASET_NORM = "expected_average_only_in"  # one factor for the whole data set, folded into released weights
_OLD_ACTIVATIONS = {"relu": "standard", "topk": "topk", "tanh-relu": "tanh-relu"}


def read_config(checkpoint: Checkpoint, architectures: Collection[str]) -> Config:
    """The config with a known `architecture` in it; ValueError when it is missing or says something else."""
    if checkpoint.config is None:
        return _from_tensors(checkpoint)
    config = _modernised(checkpoint, checkpoint.config)
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or architecture not in architectures:
        raise checkpoint.fail(
            f"the SAELens architecture {quoted(architecture)} is not known; accepted are {', '.join(architectures)}."
        )
    if config.get("reshape_activations") not in (None, "none"):
        raise checkpoint.fail(
            f"{CONFIG_NAME} has reshape_activations = {quoted(config['reshape_activations'])}; only 'none' is accepted."
        )
    return config


def _from_tensors(checkpoint: Checkpoint) -> Config:
    """What the user's word for the layout and the tensors' names tell."""
    if checkpoint.asked is None:
        raise checkpoint.undecided(
            "W_enc and W_dec are used by several", CONFIG_NAME, "its architecture", ("saelens", "saelens:32 (topk)")
        )
    if checkpoint.asked_k is not None:
        return {"architecture": "topk", "k": checkpoint.asked_k}
    marks = {"threshold": "jumprelu", "topk_threshold": "batchtopk", "b_gate": "gated"}
    return {"architecture": next((name for key, name in marks.items() if checkpoint.has(key)), "standard")}


def _modernised(checkpoint: Checkpoint, config: Config) -> Config:
    """Before version 6 the activation function had an entry of its own, and less was written down."""
    if "architecture" in config and "activation_fn_str" not in config and "activation_fn" not in config:
        return config
    activation = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    new: dict[str, Any] = {"architecture": "standard", **config}
    if new["architecture"] == "standard":
        if not isinstance(activation, str) or activation not in _OLD_ACTIVATIONS:
            known = ", ".join(_OLD_ACTIVATIONS)
            raise checkpoint.fail(f"{CONFIG_NAME} has activation_fn_str = {quoted(activation)}; known are {known}.")
        new["architecture"] = _OLD_ACTIVATIONS[activation]
    if new["architecture"] == "gated" and activation not in (None, "relu"):  # versions 3 to 5 apply it, 6 ignores it
        raise checkpoint.fail(
            f"{CONFIG_NAME} has architecture = 'gated' with activation_fn_str = {quoted(activation)}; a gated one "
            f"is read "
            f"with relu only."
        )
    arguments = config.get("activation_fn_kwargs")
    if new["architecture"] == "topk" and isinstance(arguments, Mapping):
        new.setdefault("k", arguments.get("k"))
    normalize = config.get("normalize_activations")
    if normalize is None or isinstance(normalize, bool):
        new["normalize_activations"] = _DATASET_NORM if normalize else "none"
    return new


def dataset_factor(checkpoint: Checkpoint, config: Config) -> float:
    """What x is multiplied by for a data set's average norm; SAELens keeps it outside the config until it is folded."""
    normalization = config.get("normalize_activations", "none")
    if isinstance(normalization, str) and normalization in NORMALIZATIONS:
        return 1.0
    if normalization != _DATASET_NORM:
        raise checkpoint.fail(
            f"{CONFIG_NAME} has normalize_activations = {quoted(normalization)}; accepted are "
            f"{', '.join((*NORMALIZATIONS, _DATASET_NORM))}."
        )
    factor = config.get("norm_scaling_factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1e30:
        raise checkpoint.fail(
            f"{CONFIG_NAME} has normalize_activations = {_DATASET_NORM!r}, whose scale is not stored there; fold it "
            f"into the weights with SAELens, or add it to {CONFIG_NAME} as norm_scaling_factor, a positive number."
        )
    return float(factor)


def hook_of(config: Config) -> str | None:
    metadata = config.get("metadata")
    places = [metadata if isinstance(metadata, Mapping) else {}, config]
    names = [place.get(key) for place in places for key in ("hook_name", "hook_point")]
    return next((name for name in names if isinstance(name, str)), None)
