"""SAELens 6 inference checkpoints: standard, topk, jumprelu and gated (cfg.json and sae_weights.safetensors).

Source: github.com/decoderesearch/SAELens. Its batchtopk and matryoshka SAEs are exported as jumprelu.
"""

from __future__ import annotations

from ..activations import Architecture, Kind, Normalization
from ..weights import Weight
from .checkpoint import Checkpoint, Config, Header, Reading

CONFIG_NAME = "cfg.json"
LAYOUTS = "SAELens 6 (standard, topk, jumprelu, gated)"

_KINDS: dict[str, Kind] = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
_NORMALIZATIONS: dict[str, Normalization] = {
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}
_DATASET_NORM = "expected_average_only_in"  # one factor for the whole data set, folded into released weights
# canonical name -> stored name, besides W_enc, W_dec and b_dec
_VECTORS: dict[str, dict[str, str]] = {
    "standard": {"encoder_bias": "b_enc"},
    "topk": {"encoder_bias": "b_enc"},
    "jumprelu": {"encoder_bias": "b_enc", "threshold": "threshold"},
    "gated": {"gate_bias": "b_gate", "magnitude_bias": "b_mag", "r_mag": "r_mag"},
}


def matches(header: Header, config: Config | None) -> bool:
    return {"W_enc", "W_dec", "b_dec"} <= set(header)


def read(checkpoint: Checkpoint) -> Reading:
    config = _config(checkpoint)
    name = config["architecture"]
    vectors = _VECTORS[name]
    checkpoint.check_tensors(("W_enc", "W_dec", "b_dec", *vectors.values()), f"SAELens {name}")
    _check_shapes(checkpoint, config)
    factor = _dataset_factor(checkpoint, config)
    tensors = {canonical: Weight(checkpoint.source, stored) for canonical, stored in vectors.items()}
    tensors["encoder"] = _scaled(checkpoint, "W_enc", factor, transposed=True)
    tensors["decoder"] = _scaled(checkpoint, "W_dec", 1 / factor)
    tensors["output_bias"] = _scaled(checkpoint, "b_dec", 1 / factor)
    if config.get("apply_b_dec_to_input", True):
        tensors["input_bias"] = tensors["output_bias"]
    return Reading(tensors, _architecture(checkpoint, config), _hook(config))


def _config(checkpoint: Checkpoint) -> Config:
    """The config of a SAELens 6 checkpoint of a known architecture."""
    config = checkpoint.config
    if config is None:
        raise checkpoint.fail(
            f"W_enc and W_dec are used by several layouts and there is no {CONFIG_NAME} beside the file; put the "
            f"{CONFIG_NAME} that SAELens wrote into the same folder."
        )
    if "activation_fn_str" in config or "architecture" not in config:
        raise checkpoint.fail(
            f"{CONFIG_NAME} is not from SAELens 6 (it has activation_fn_str or lacks architecture); load and save the "
            f"SAE once with SAELens 6 to convert it."
        )
    if config["architecture"] not in _KINDS:
        raise checkpoint.fail(
            f"the SAELens architecture {config['architecture']!r} is not known; accepted are {', '.join(_KINDS)}, and "
            f"SAELens exports batchtopk and matryoshka SAEs as jumprelu."
        )
    if config.get("reshape_activations", "none") != "none":
        raise checkpoint.fail(
            f"{CONFIG_NAME} has reshape_activations = {config['reshape_activations']!r}; only 'none' is accepted."
        )
    return config


def _architecture(checkpoint: Checkpoint, config: Config) -> Architecture:
    kind = _KINDS[config["architecture"]]
    normalization = _NORMALIZATIONS.get(config.get("normalize_activations", "none"), "none")
    if kind != "topk":
        return Architecture(kind, normalization=normalization)
    return Architecture(
        kind,
        k=checkpoint.whole_number(config, "k", CONFIG_NAME),
        normalization=normalization,
        decoder_norm="before" if config.get("rescale_acts_by_decoder_norm", False) else "none",
    )


def _dataset_factor(checkpoint: Checkpoint, config: Config) -> float:
    """What x is multiplied by for a data set's average norm; SAELens keeps it outside the config until it is folded."""
    normalization = config.get("normalize_activations", "none")
    if normalization in _NORMALIZATIONS:
        return 1.0
    if normalization != _DATASET_NORM:
        raise checkpoint.fail(
            f"{CONFIG_NAME} has normalize_activations = {normalization!r}; accepted are "
            f"{', '.join((*_NORMALIZATIONS, _DATASET_NORM))}."
        )
    factor = config.get("norm_scaling_factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 0:
        raise checkpoint.fail(
            f"{CONFIG_NAME} has normalize_activations = {_DATASET_NORM!r}, whose scale is not stored there; fold it "
            f"into the weights with SAELens, or add it to {CONFIG_NAME} as norm_scaling_factor, a positive number."
        )
    return float(factor)


def _scaled(checkpoint: Checkpoint, key: str, factor: float, transposed: bool = False) -> Weight:
    transform = None if factor == 1 else lambda values: values * factor
    return Weight(checkpoint.source, key, transposed=transposed, transform=transform)


def _check_shapes(checkpoint: Checkpoint, config: Config) -> None:
    shape = checkpoint.header["W_dec"].shape
    if len(shape) == 2:
        checkpoint.check_config_shape(config, {"d_in": shape[1], "d_sae": shape[0]}, CONFIG_NAME)


def _hook(config: Config) -> str | None:
    metadata = config.get("metadata")
    hook = metadata.get("hook_name") if isinstance(metadata, dict) else None
    return hook if isinstance(hook, str) else None
