"""Llama Scope, by OpenMOSS: `checkpoints/final.safetensors` with hyperparams.json above; SAEs of Llama 3.1 8B's blocks.

Source: github.com/OpenMOSS/Language-Model-SAEs, of the time of arXiv 2410.20526. With s the factor that brings the data
set's average norm to √d, and n the norm of a decoder row where sparsity_include_decoder_norm is set, else 1:

    p = s_in · W_enc x + b_enc     f = p where n · p > jump_relu_threshold, else 0     x̂ = (W_dec f + b_dec) / s_out
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..dictionary.activations import Architecture, Normalization
from ..dictionary.weights import Weight
from ..files.quote import quoted
from ..files.small_json import is_number
from ..files.tensors import ComputedRows
from .checkpoint import Checkpoint, Config, Reading
from .words import words

CONFIG_NAME = "hyperparams.json"
LAYOUTS = "Llama Scope"
LAYOUT_NAMES = ("llama_scope",)

_TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight")
_BIAS = "decoder.bias"
_NORMS: dict[object, Normalization] = {"token-wise": "constant_norm", "inference": "none", "none": "none"}
_HOOK, _HOOK_OUT = "hook_point_in", "hook_point_out"
_WORDS = words(
    LAYOUTS,
    read=f"""act_fn jump_relu_threshold norm_activation dataset_average_activation_norm sparsity_include_decoder_norm
    use_decoder_bias apply_decoder_bias_to_pre_encoder use_glu_encoder d_model d_sae sae_type {_HOOK} {_HOOK_OUT}""",
    idle="""top_k k expansion_factor lp decoder_bias_init_method decoder_exactly_fixed_norm init_decoder_norm
    init_encoder_norm ignore_token_ids strict_loading init_encoder_with_decoder_transpose use_batch_norm_mse
    encoder_bias_init_method sae_pretrained_name_or_path device_mesh tp_size ddp_size""",
)


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has(*_TENSORS) and {"act_fn", _HOOK} & set(checkpoint.config or {}) != set()


def read(checkpoint: Checkpoint) -> Reading:
    config = checkpoint.config
    if config is None:
        raise checkpoint.undecided("Llama Scope", CONFIG_NAME, "act_fn and its threshold", LAYOUT_NAMES)
    notes = _WORDS.check(checkpoint, config, CONFIG_NAME)
    _refuse(checkpoint, config)
    biased = checkpoint.flag(config, "use_decoder_bias", True, CONFIG_NAME)
    checkpoint.check_tensors((*_TENSORS, *([_BIAS] if biased else [])), LAYOUTS, ignored=(_BIAS,))
    d_in, d_sae = checkpoint.width_and_count("decoder.weight", transposed=True)
    checkpoint.check_config_shape(config, {"d_model": d_in, "d_sae": d_sae}, CONFIG_NAME)
    normalization, into, out = _norm(checkpoint, config, d_in)
    decoder = Weight(checkpoint.source, "decoder.weight", transposed=True, transform=_times(1 / out))
    tensors = {
        "encoder": Weight(checkpoint.source, "encoder.weight", transform=_times(into)),
        "decoder": decoder,
        **checkpoint.stored(encoder_bias="encoder.bias"),
        **({"output_bias": Weight(checkpoint.source, _BIAS, transform=_times(1 / out))} if biased else {}),
    }
    kind = config.get("act_fn")
    if kind == "jumprelu":
        tensors["threshold"] = _threshold(checkpoint, config, d_sae)
    architecture = Architecture("jumprelu" if kind == "jumprelu" else "relu", normalization=normalization)
    hook = config.get(_HOOK)
    return Reading(
        tensors, architecture, f"{LAYOUTS} {architecture.kind}", hook if isinstance(hook, str) else None, notes=notes
    )


def _refuse(checkpoint: Checkpoint, config: Config) -> None:
    """What changes the formula and is not in any file that is published."""
    if config.get("act_fn") not in ("jumprelu", "relu"):
        raise checkpoint.fail(
            f"{CONFIG_NAME} has act_fn = {quoted(config.get('act_fn'))}; known are jumprelu and relu."
        )
    if config.get("sae_type") not in (None, "sae"):
        raise checkpoint.fail(f"{CONFIG_NAME} has sae_type = {quoted(config['sae_type'])}; known is sae.")
    for word in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder"):
        if checkpoint.flag(config, word, False, CONFIG_NAME):
            raise checkpoint.fail(f"{CONFIG_NAME} has {word} = True; only SAEs without are read.")
    if config.get(_HOOK_OUT, config.get(_HOOK)) != config.get(_HOOK):
        raise checkpoint.fail(
            f"{CONFIG_NAME} has {_HOOK_OUT} = {quoted(config[_HOOK_OUT])}, another place than {_HOOK}: this is a "
            f"transcoder; give an SAE."
        )


def _norm(checkpoint: Checkpoint, config: Config, d_in: int) -> tuple[Normalization, float, float]:
    """The normalisation of each token, and the factors s_in and s_out of the whole data set."""
    kind = config.get("norm_activation") or "none"
    if kind in _NORMS:
        return _NORMS[kind], 1.0, 1.0
    if kind != "dataset-wise":
        raise checkpoint.fail(
            f"{CONFIG_NAME} has norm_activation = {quoted(kind)}; known are dataset-wise, "
            f"{', '.join(map(str, _NORMS))}."
        )
    average = config.get("dataset_average_activation_norm")
    norms = [average.get(side) if isinstance(average, dict) else None for side in ("in", "out")]
    if not all(is_number(norm) and 0 < norm < 1e30 for norm in norms):
        raise checkpoint.fail(
            f"{CONFIG_NAME} must give dataset_average_activation_norm with in and out, but has {quoted(average)}."
        )
    into, out = (math.sqrt(d_in) / float(norm or 1) for norm in norms)
    return "none", into, out


def _threshold(checkpoint: Checkpoint, config: Config, d_sae: int) -> Weight:
    """One for all features, or through the norm of each one's decoder row as it is stored."""
    value = config.get("jump_relu_threshold")
    if not is_number(value):
        raise checkpoint.fail(f"{CONFIG_NAME} must give jump_relu_threshold as a number, but has {quoted(value)}.")
    stored = Weight(checkpoint.source, "decoder.weight", transposed=True)
    if not checkpoint.flag(config, "sparsity_include_decoder_norm", True, CONFIG_NAME):
        rows = ComputedRows((d_sae,), lambda start, stop: torch.full((stop - start,), float(value)), checkpoint.label)
        return Weight(rows, ComputedRows.KEY)

    def through_norms(start: int, stop: int) -> Tensor:
        norms = stored.norms() if stop - start == d_sae else stored.rows(range(start, stop)).norm(dim=1)
        return float(value) / norms.clamp_min(1e-8)

    return Weight(ComputedRows((d_sae,), through_norms, checkpoint.label), ComputedRows.KEY)


def _times(factor: float) -> Callable[[Tensor], Tensor] | None:
    return None if factor == 1 else lambda values: values * factor
