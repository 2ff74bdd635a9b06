"""ViT-Prisma's SAEs of vision transformers: config.json and weights.pt or n_images_*.pt.

Source: github.com/Prisma-Multimodal/ViT-Prisma.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..dictionary.activations import Architecture, Kind, Normalization
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading

CONFIG_NAME = "config.json"
LAYOUTS = "ViT-Prisma"
LAYOUT_NAMES = ("prisma",)

_KINDS: dict[str, Kind] = {"relu": "relu", "tanh-relu": "tanh_relu", "topk": "topk"}
_NORMALIZATIONS: dict[object, Normalization] = {
    None: "none",
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}
_MATRICES = ("W_enc", "W_dec", "b_dec")
_GATES = {"gate_bias": "b_gate", "magnitude_bias": "b_mag", "r_mag": "r_mag"}


def matches(checkpoint: Checkpoint) -> bool:
    config = checkpoint.config or {}
    return checkpoint.has(*_MATRICES) and "activation_fn_str" in config and "layer_subtype" in config


def read(checkpoint: Checkpoint) -> Reading:
    config = checkpoint.config or {}
    architecture = _architecture(checkpoint, config)
    gated = architecture.kind == "gated"
    vectors = _GATES if gated else {"encoder_bias": "b_enc"}
    unused = ("b_enc", "scaling_factor") if gated else ("scaling_factor",)
    checkpoint.check_tensors((*_MATRICES, *vectors.values()), f"{LAYOUTS} {architecture.kind}", ignored=unused)
    d_in, d_sae = checkpoint.width_and_count("W_dec", transposed=False)
    checkpoint.check_config_shape(config, {"d_in": d_in, "d_sae": d_sae}, CONFIG_NAME)
    tensors = {
        **checkpoint.turned(encoder="W_enc"),
        **checkpoint.stored(decoder="W_dec", input_bias="b_dec", output_bias="b_dec", **vectors),
    }
    return Reading(tensors, architecture, f"{LAYOUTS} {architecture.kind}", _hook(config))


def _architecture(checkpoint: Checkpoint, config: Config) -> Architecture:
    kind = config.get("activation_fn_str", "relu")
    normalize = config.get("normalize_activations")
    if not isinstance(normalize, str | None) or normalize not in _NORMALIZATIONS:
        known = ", ".join(str(name) for name in _NORMALIZATIONS)
        raise checkpoint.fail(f"{CONFIG_NAME} has normalize_activations = {quoted(normalize)}; known are {known}.")
    normalization = _NORMALIZATIONS[normalize]
    architecture = config.get("architecture", "standard")
    if architecture == "gated":
        if kind != "relu":  # which releases of ViT-Prisma apply to the magnitudes, and others ignore
            raise checkpoint.fail(
                f"{CONFIG_NAME} has architecture = 'gated' with activation_fn_str = {quoted(kind)}; a gated one is "
                f"read with "
                f"relu only."
            )
        return Architecture("gated", normalization=normalization)
    if architecture not in (None, "standard", "vanilla", "topk", "top_k"):
        raise checkpoint.fail(f"{CONFIG_NAME} has architecture = {quoted(architecture)}; known are standard and gated.")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise checkpoint.fail(f"{CONFIG_NAME} has activation_fn_str = {quoted(kind)}; known are {', '.join(_KINDS)}.")
    if kind != "topk":
        return Architecture(_KINDS[kind], normalization=normalization)
    arguments = config.get("activation_fn_kwargs")
    k = checkpoint.k(arguments if isinstance(arguments, Mapping) else {}, "k", f"{CONFIG_NAME} (activation_fn_kwargs)")
    return Architecture("topk", k=k, normalization=normalization)


def _hook(config: Config) -> str | None:
    layer, subtype = config.get("hook_point_layer"), config.get("layer_subtype")
    return f"blocks.{layer}.{subtype}" if isinstance(layer, int) and isinstance(subtype, str) else None
