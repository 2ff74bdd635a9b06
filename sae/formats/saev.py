"""saev's SAEs of vision models: sae.pt, whose first line is a JSON header and whose rest is a file of torch.save.

Source: github.com/OSU-NLP-Group/saev. Nothing is taken off the input, and its TopK keeps negative codes. Its first
files have the bare config of a ReLU one on that line; of schema 1 some name the activation in `cls`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..dictionary.activations import Architecture
from ..dictionary.weights import Weight
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading
from .named_tensors import HEADER
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "saev"
LAYOUT_NAMES = ("saev",)

_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
_THRESHOLD = "activation.threshold"
_WHERE = "the header"
_SCHEMAS = range(1, 6)
_ACTIVATIONS = ("Relu", "TopK", "BatchTopK", "JumpReLU")
_TOP = words(LAYOUTS, read="schema cls cfg")
_WORDS = words(
    LAYOUTS, read="d_model d_vit d_sae exp_factor activation",
    idle="""n_reinit_samples reinit_blend reinit_enc_dec_tranpose remove_parallel_grads normalize_w_dec sparsity_coeff
    l1_coeff ghost_grads use_ghost_grads""",
)  # fmt: skip
_ACTIVATION = words(LAYOUTS, read="cls params")
_PARAMS = words(LAYOUTS, read="key kind", idle="sparsity aux momentum")


def matches(checkpoint: Checkpoint) -> bool:
    return HEADER in checkpoint.extras


def read(checkpoint: Checkpoint) -> Reading:
    config, name, params = _config(checkpoint)
    architecture = _architecture(checkpoint, name, params)
    needs = (_THRESHOLD,) if architecture.kind == "batchtopk" else ()
    checkpoint.check_tensors((*_TENSORS, *needs), LAYOUTS, ignored=(_THRESHOLD,))
    d_in, d_sae = checkpoint.width_and_count("W_dec", transposed=False)
    checkpoint.check_config_shape(config, {"d_model": d_in, "d_vit": d_in, "d_sae": d_sae}, _WHERE)
    if config.get("d_sae") is None and isinstance(factor := config.get("exp_factor"), int) and factor * d_in != d_sae:
        raise checkpoint.fail(f"{_WHERE} has exp_factor = {factor}, but the tensors have {d_sae} features of {d_in}.")
    tensors = {
        **checkpoint.turned(encoder="W_enc"),
        **checkpoint.stored(encoder_bias="b_enc", decoder="W_dec", output_bias="b_dec"),
    }
    if needs:  # one of 0 or less counts as a ReLU
        tensors["threshold"] = Weight(checkpoint.source, _THRESHOLD, transform=lambda values: values.clamp_min(0))
    notes = _notes(checkpoint, config, name, params)
    return Reading(tensors, architecture, f"{LAYOUTS} {architecture.kind}", notes=notes)


def _config(checkpoint: Checkpoint) -> tuple[Config, object, Mapping[str, Any]]:
    """The config, the activation's name and its parameters, wherever the schema puts them."""
    header = checkpoint.extras.get(HEADER)
    header = header if isinstance(header, Mapping) else {}
    if "schema" not in header and "cfg" not in header:
        return header, "Relu", {}
    schema, config, cls = header.get("schema"), header.get("cfg"), header.get("cls")
    if not isinstance(config, dict):
        raise checkpoint.fail("its first line must be saev's JSON header with an entry cfg.")
    if schema not in _SCHEMAS:
        raise checkpoint.fail(f"{_WHERE} has schema = {quoted(schema)}; known are {_SCHEMAS[0]} to {_SCHEMAS[-1]}.")
    if schema == 1 and cls in _ACTIVATIONS:
        return config, cls, {"top_k": config["top_k"]} if "top_k" in config else {}
    if cls not in (None, "SparseAutoencoderConfig"):
        raise checkpoint.fail(f"{_WHERE} has cls = {quoted(cls)}; known are {', '.join(_ACTIVATIONS)}, of schema 1.")
    activation = config.get("activation")
    if activation is None:
        raise checkpoint.fail(f"{_WHERE} names no activation; known are {', '.join(_ACTIVATIONS)}.")
    params = activation.get("params") if isinstance(activation, dict) else None
    return config, activation.get("cls") if isinstance(activation, dict) else activation, params or {}


def _architecture(checkpoint: Checkpoint, name: object, params: Mapping[str, Any]) -> Architecture:
    kind = name.lower() if isinstance(name, str) else ""
    if kind == "relu":
        return Architecture("relu")
    if kind == "topk":
        return Architecture(
            "topk", k=checkpoint.k(params, "top_k" if "top_k" in params else "k", _WHERE), rectify=False
        )
    if kind in ("batchtopk", "jumprelu"):
        return Architecture("batchtopk", rectify=False)
    raise checkpoint.fail(f"the header has the activation {quoted(name)}; known are {', '.join(_ACTIVATIONS)}.")


def _notes(checkpoint: Checkpoint, config: Config, name: object, params: Mapping[str, Any]) -> tuple[str, ...]:
    header = checkpoint.extras.get(HEADER)
    counted = isinstance(name, str) and "topk" in name.lower()
    inside = _PARAMS.and_read("top_k", "k") if counted else _PARAMS
    bare = header is config
    legacy = _WORDS.and_read("top_k") if counted and not bare and config.get("activation") is None else _WORDS
    activation = config.get("activation")
    return (
        (() if bare or not isinstance(header, Mapping) else _TOP.check(checkpoint, header, _WHERE))
        + legacy.check(checkpoint, config, _WHERE)
        + _ACTIVATION.check(checkpoint, activation if isinstance(activation, dict) else None, _WHERE)
        + inside.check(checkpoint, params, f"{_WHERE} (params)")
    )
