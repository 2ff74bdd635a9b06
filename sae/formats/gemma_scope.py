"""Gemma Scope: JumpReLU SAEs of Gemma 2, `layer_{n}/width_{F}/average_l0_{k}/params.npz`, and of Gemma 3.

Sources: arXiv 2408.05147 with the tutorial of huggingface.co/google/gemma-scope; for Gemma Scope 2, whose files are
`params.safetensors` with small letters and a config.json, SAELens' loader. b_dec is not taken off before.
"""

from __future__ import annotations

from ..dictionary.activations import Architecture
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "Gemma Scope"
LAYOUT_NAMES = ("gemma_scope",)

_TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
_SMALL = tuple(name.lower() for name in _TENSORS)
_HOOK, _HOOK_OUT = "hf_hook_point_in", "hf_hook_point_out"
_WORDS = words(
    LAYOUTS, read=f"{_HOOK} {_HOOK_OUT} architecture type width affine_connection model_name",
    idle="l0 average_l0 layer hook_point_in hook_point_out",
)  # fmt: skip


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
    notes = _WORDS.check(checkpoint, config, CONFIG_NAME)
    name = f"{LAYOUTS} {2 if small else 1}"
    return Reading(tensors, Architecture("jumprelu"), name, hook if isinstance(hook, str) else None, notes=notes)


def _check_config(checkpoint: Checkpoint, config: Config, decoder: str) -> None:
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise checkpoint.fail(f"{CONFIG_NAME} has architecture = {quoted(architecture)}; known is jump_relu.")
    kind = config.get("type", "sae")
    if kind != "sae":
        raise checkpoint.fail(f"{CONFIG_NAME} has type = {quoted(kind)}; only SAEs are read, of type sae.")
    if config.get("affine_connection") not in (None, False):
        raise checkpoint.fail(f"{CONFIG_NAME} has an affine_connection, as transcoders have; give an SAE.")
    if config.get(_HOOK_OUT, config.get(_HOOK)) != config.get(_HOOK):
        raise checkpoint.fail(
            f"{CONFIG_NAME} has {_HOOK_OUT} = {quoted(config[_HOOK_OUT])}, another place than {_HOOK}; give an SAE."
        )
    _, d_sae = checkpoint.width_and_count(decoder, transposed=False)
    checkpoint.check_config_shape(config, {"width": d_sae}, CONFIG_NAME)
