"""Gemma Scope: JumpReLU SAEs of Gemma 2, `layer_{n}/width_{F}/average_l0_{k}/params.npz`, and of Gemma 3.

Sources: arXiv 2408.05147 with the tutorial of huggingface.co/google/gemma-scope; for Gemma Scope 2, whose files are
`params.safetensors` with small letters and a config.json, SAELens' loader. b_dec is not taken off before.
"""

from __future__ import annotations

from ..dictionary.activations import Architecture
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading

CONFIG_NAME = "config.json"
LAYOUTS = "Gemma Scope"
LAYOUT_NAMES = ("gemma_scope",)

_TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
_SMALL = tuple(name.lower() for name in _TENSORS)
_HOOK = "hf_hook_point_in"


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has(*_SMALL) or (checkpoint.has(*_TENSORS) and checkpoint.path.suffix == ".npz")


def read(checkpoint: Checkpoint) -> Reading:
    if any("transcoder" in folder.name for folder in checkpoint.path.absolute().parents):
        # Their files hold the same five arrays.
        raise checkpoint.fail("its folder is one of transcoders, which predict another place; give an SAE.")
    small = checkpoint.has("w_enc")
    names = _SMALL if small else _TENSORS
    checkpoint.check_tensors(names, LAYOUTS)
    encoder, decoder, encoder_bias, output_bias, threshold = names
    tensors = {
        **checkpoint.turned(encoder=encoder),
        **checkpoint.stored(encoder_bias=encoder_bias, decoder=decoder, output_bias=output_bias, threshold=threshold),
    }
    config: Config = checkpoint.config if small and checkpoint.config else {}
    _check_config(checkpoint, config, decoder)
    hook = config.get(_HOOK)
    return Reading(
        tensors, Architecture("jumprelu"), f"{LAYOUTS} {2 if small else 1}", hook if isinstance(hook, str) else None
    )


def _check_config(checkpoint: Checkpoint, config: Config, decoder: str) -> None:
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise checkpoint.fail(f"{CONFIG_NAME} has architecture = {quoted(architecture)}; known is jump_relu.")
    kind = config.get("type", "sae")
    if kind != "sae":
        raise checkpoint.fail(f"{CONFIG_NAME} has type = {quoted(kind)}; only SAEs are read, of type sae.")
    _, d_sae = checkpoint.width_and_count(decoder, transposed=False)
    checkpoint.check_config_shape(config, {"width": d_sae}, CONFIG_NAME)
