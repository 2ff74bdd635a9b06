"""SAELens checkpoints: cfg.json and sae_weights.safetensors of version 6, its training runs, and older versions.

Source: github.com/decoderesearch/SAELens. `saelens_config.py` reads the configs.
"""

from __future__ import annotations

from torch import Tensor

from ..dictionary.activations import Architecture, Kind
from ..dictionary.weights import Weight
from ..files.quote import quoted
from ..files.tensors import ComputedRows
from .checkpoint import Checkpoint, Config, Reading
from .saelens_config import CONFIG_NAME, NORMALIZATIONS, dataset_factor, hook_of, read_config

LAYOUTS = "SAELens"
LAYOUT_NAMES = ("saelens",)

_KINDS: dict[str, Kind] = {
    "standard": "relu",
    "tanh-relu": "tanh_relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
    "matching_pursuit": "matching_pursuit",
}
# canonical name -> stored name, besides W_enc, W_dec and b_dec
_GATED = {"gate_bias": "b_gate", "magnitude_bias": "b_mag", "r_mag": "r_mag"}
_VECTORS: dict[Kind, dict[str, str]] = {
    "jumprelu": {"encoder_bias": "b_enc", "threshold": "threshold"},
    "gated": _GATED,
    "matching_pursuit": {},
    "batchtopk": {"encoder_bias": "b_enc", "threshold": "topk_threshold"},
}
_SCALING = "scaling_factor"


def matches(checkpoint: Checkpoint) -> bool:
    tied = (checkpoint.config or {}).get("architecture") == "matching_pursuit"  # its encoder is the decoder
    return checkpoint.has("W_dec", "b_dec") and (tied or checkpoint.has("W_enc"))


def read(checkpoint: Checkpoint) -> Reading:
    config = read_config(checkpoint, _KINDS)
    name = config["architecture"]
    kind = _KINDS[name]
    vectors = _VECTORS.get(kind, {"encoder_bias": "b_enc"})
    encoder = "W_dec" if kind == "matching_pursuit" else "W_enc"
    scaled = checkpoint.flag(config, "finetuning_scaling_factor", False, CONFIG_NAME)
    wanted = [*dict.fromkeys((encoder, "W_dec")), "b_dec", *vectors.values(), *([_SCALING] if scaled else [])]
    checkpoint.check_tensors(wanted, f"SAELens {name}", ignored=(_SCALING,))
    if kind == "matching_pursuit":
        _refuse_early_ends(checkpoint, config)
    d_in, d_sae = checkpoint.width_and_count("W_dec", transposed=False)
    checkpoint.check_config_shape(config, {"d_in": d_in, "d_sae": d_sae}, CONFIG_NAME)
    factor = dataset_factor(checkpoint, config)
    tensors = checkpoint.stored(**vectors)
    tensors["encoder"] = _times(checkpoint, encoder, factor, transposed=encoder == "W_enc")
    tensors["decoder"] = _finetuned(checkpoint, factor) if scaled else _times(checkpoint, "W_dec", 1 / factor)
    tensors["output_bias"] = _times(checkpoint, "b_dec", 1 / factor)
    if checkpoint.flag(config, "apply_b_dec_to_input", True, CONFIG_NAME):
        tensors["input_bias"] = tensors["output_bias"]
    return Reading(tensors, _architecture(checkpoint, config), f"SAELens {name}", hook_of(config))


def _architecture(checkpoint: Checkpoint, config: Config) -> Architecture:
    kind = _KINDS[config["architecture"]]
    normalization = NORMALIZATIONS.get(config.get("normalize_activations", "none"), "none")
    if kind == "matching_pursuit":
        return Architecture(kind, checkpoint.k(config, "max_iterations", CONFIG_NAME), normalization=normalization)
    if kind not in ("topk", "batchtopk"):
        return Architecture(kind, normalization=normalization)
    # a topk SAE has it off unless its config says so; batchtopk training has it on
    rescaled = checkpoint.flag(config, "rescale_acts_by_decoder_norm", kind == "batchtopk", CONFIG_NAME)
    return Architecture(
        kind,
        k=checkpoint.k(config, "k", CONFIG_NAME) if kind == "topk" else None,
        normalization=normalization,
        decoder_norm="before" if rescaled else "none",
    )


def _refuse_early_ends(checkpoint: Checkpoint, config: Config) -> None:
    """Matching pursuit is computed with a fixed number of choices, and by what it takes off the token."""
    residual = config.get("residual_threshold", 0.01)
    repeated = checkpoint.flag(config, "stop_on_duplicate_support", True, CONFIG_NAME)
    centred = checkpoint.flag(config, "apply_b_dec_to_input", True, CONFIG_NAME)
    if residual != 0 or repeated or not centred:
        raise checkpoint.fail(
            f"{CONFIG_NAME} describes a matching pursuit that may end early; accepted are max_iterations with "
            "residual_threshold 0, stop_on_duplicate_support false and apply_b_dec_to_input true."
        )


def _times(checkpoint: Checkpoint, key: str, factor: float, transposed: bool = False) -> Weight:
    transform = None if factor == 1 else lambda values: values * factor
    return Weight(checkpoint.source, key, transposed=transposed, transform=transform)


def _finetuned(checkpoint: Checkpoint, factor: float) -> Weight:
    """Decoder rows times each feature's own factor, which a fine-tuning of old versions learned."""
    source, shape = checkpoint.source, checkpoint.header["W_dec"].shape
    if checkpoint.header[_SCALING].shape != shape[:1]:
        found = quoted(checkpoint.header[_SCALING].shape)
        raise checkpoint.fail(f"{_SCALING} has the shape {found}, which does not fit W_dec's {quoted(shape)}.")

    def rows(start: int, stop: int) -> Tensor:
        ids = range(start, stop)
        return source.rows("W_dec", ids).float() * source.rows(_SCALING, ids).float()[:, None] / factor

    return Weight(ComputedRows((shape[0], shape[1]), rows, checkpoint.label), ComputedRows.KEY)
