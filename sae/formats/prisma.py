"""ViT-Prisma's SAEs of vision transformers: config.json and weights.pt or n_images_*.pt.

Source: github.com/Prisma-Multimodal/ViT-Prisma.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..dictionary.activations import Architecture, Kind, Normalization
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "ViT-Prisma"
_GATED_TOPK, _GATED_RELU = "prisma_gated_topk", "prisma_gated_relu"  # two releases' readings of the same config
LAYOUT_NAMES = ("prisma", _GATED_TOPK, _GATED_RELU)

_KINDS: dict[str, Kind] = {"relu": "relu", "tanh-relu": "tanh_relu", "topk": "topk"}
_NORMALIZATIONS: dict[object, Normalization] = {
    None: "none",
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}
_WORDS = words(
    LAYOUTS,
    read="""d_in d_sae expansion_factor activation_fn_str activation_fn_kwargs normalize_activations hook_point_layer
    layer_subtype architecture is_transcoder cls_token_only use_patches_only hook_point hook_point_head_index""",
    idle="""_device _dtype vit_model_cfg image_size total_training_images n_validation_runs zero_centering max_grad_norm
    initialization_method gated_sae gated layer_out out_hook_point_layer""",
)
_MATRICES = ("W_enc", "W_dec", "b_dec")
_GATES = {"gate_bias": "b_gate", "magnitude_bias": "b_mag", "r_mag": "r_mag"}


def matches(checkpoint: Checkpoint) -> bool:
    config = checkpoint.config or {}
    return checkpoint.has(*_MATRICES) and "activation_fn_str" in config and "layer_subtype" in config


def read(checkpoint: Checkpoint) -> Reading:
    config = checkpoint.config or {}
    architecture = _architecture(checkpoint, config)
    gated = architecture.kind in ("gated", "gated_topk")
    vectors = _GATES if gated else {"encoder_bias": "b_enc"}
    unused = ("b_enc", "scaling_factor") if gated else ("scaling_factor",)
    checkpoint.check_tensors((*_MATRICES, *vectors.values()), f"{LAYOUTS} {architecture.kind}", ignored=unused)
    d_in, d_sae = checkpoint.width_and_count("W_dec", transposed=False)
    checkpoint.check_config_shape(config, {"d_in": d_in, "d_sae": d_sae}, CONFIG_NAME)
    tensors = {
        **checkpoint.turned(encoder="W_enc"),
        **checkpoint.stored(decoder="W_dec", input_bias="b_dec", output_bias="b_dec", **vectors),
    }
    notes = _WORDS.check(checkpoint, config, CONFIG_NAME)
    arguments = config.get("activation_fn_kwargs")
    if isinstance(arguments, Mapping):
        counts = words(LAYOUTS, read="k" if config.get("activation_fn_str") == "topk" else "")
        notes += counts.check(checkpoint, arguments, f"{CONFIG_NAME} (activation_fn_kwargs)")
    return Reading(tensors, architecture, f"{LAYOUTS} {architecture.kind}", _hook(config), notes=notes)


def _architecture(checkpoint: Checkpoint, config: Config) -> Architecture:
    kind = config.get("activation_fn_str", "relu")
    normalize = config.get("normalize_activations")
    if not isinstance(normalize, str | None) or normalize not in _NORMALIZATIONS:
        known = ", ".join(str(name) for name in _NORMALIZATIONS)
        raise checkpoint.fail(f"{CONFIG_NAME} has normalize_activations = {quoted(normalize)}; known are {known}.")
    normalization = _NORMALIZATIONS[normalize]
    architecture = config.get("architecture", "standard")
    if architecture == "gated":
        return _gated(checkpoint, config, kind, normalization)
    if checkpoint.asked in (_GATED_TOPK, _GATED_RELU):
        raise checkpoint.fail(f"architecture: {checkpoint.asked} was given, but {CONFIG_NAME} does not say gated.")
    if architecture not in (None, "standard", "vanilla", "topk", "top_k"):
        raise checkpoint.fail(f"{CONFIG_NAME} has architecture = {quoted(architecture)}; known are standard and gated.")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise checkpoint.fail(f"{CONFIG_NAME} has activation_fn_str = {quoted(kind)}; known are {', '.join(_KINDS)}.")
    if kind != "topk":
        return Architecture(_KINDS[kind], normalization=normalization)
    return Architecture("topk", k=_k(checkpoint, config), normalization=normalization)


def _gated(checkpoint: Checkpoint, config: Config, kind: object, normalization: Normalization) -> Architecture:
    """Some releases of ViT-Prisma apply the activation function to the magnitudes, others always have ReLU there."""
    if kind == "relu" or checkpoint.asked == _GATED_RELU:
        return Architecture("gated", normalization=normalization)
    if kind == "topk" and checkpoint.asked == _GATED_TOPK:
        return Architecture("gated_topk", k=_k(checkpoint, config), normalization=normalization)
    choice = f" {_GATED_TOPK} where the k largest magnitudes are kept before the gate, or" if kind == "topk" else ""
    raise checkpoint.fail(
        f"{CONFIG_NAME} has architecture = 'gated' with activation_fn_str = {quoted(kind)}, which some releases of "
        f"ViT-Prisma apply and others do not; name the meaning in the input architecture:{choice} {_GATED_RELU} where "
        f"ReLU stands in its place."
    )


def _k(checkpoint: Checkpoint, config: Config) -> int:
    arguments = config.get("activation_fn_kwargs")
    return checkpoint.k(
        arguments if isinstance(arguments, Mapping) else {}, "k", f"{CONFIG_NAME} (activation_fn_kwargs)"
    )


def _hook(config: Config) -> str | None:
    layer, subtype = config.get("hook_point_layer"), config.get("layer_subtype")
    return f"blocks.{layer}.{subtype}" if isinstance(layer, int) and isinstance(subtype, str) else None
