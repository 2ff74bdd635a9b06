"""saev's SAEs of vision models: sae.pt, whose first line is a JSON header and whose rest is a file of torch.save.

Source: github.com/OSU-NLP-Group/saev. Nothing is taken off the input, and its TopK keeps negative codes.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..dictionary.activations import Architecture
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading
from .named_tensors import HEADER

CONFIG_NAME = "config.json"
LAYOUTS = "saev"
LAYOUT_NAMES = ("saev",)

_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
_THRESHOLD = "activation.threshold"
_WHERE = "the header"


def matches(checkpoint: Checkpoint) -> bool:
    return HEADER in checkpoint.extras


def read(checkpoint: Checkpoint) -> Reading:
    config = _config(checkpoint)
    architecture = _architecture(checkpoint, config)
    needs = (_THRESHOLD,) if architecture.kind == "batchtopk" else ()
    checkpoint.check_tensors((*_TENSORS, *needs), LAYOUTS, ignored=(_THRESHOLD,))
    d_in, d_sae = checkpoint.width_and_count("W_dec", transposed=False)
    checkpoint.check_config_shape(config, {"d_model": d_in, "d_sae": d_sae}, _WHERE)
    tensors = {
        **checkpoint.turned(encoder="W_enc"),
        **checkpoint.stored(encoder_bias="b_enc", decoder="W_dec", output_bias="b_dec"),
        **(checkpoint.stored(threshold=_THRESHOLD) if needs else {}),
    }
    return Reading(tensors, architecture, f"{LAYOUTS} {architecture.kind}")


def _config(checkpoint: Checkpoint) -> Config:
    header = checkpoint.extras.get(HEADER)
    config = header.get("cfg") if isinstance(header, Mapping) else None
    if not isinstance(config, dict):
        raise checkpoint.fail("its first line must be saev's JSON header with an entry cfg.")
    return config


def _architecture(checkpoint: Checkpoint, config: Config) -> Architecture:
    activation = config.get("activation", {"cls": "Relu"})
    name = activation.get("cls") if isinstance(activation, dict) else activation
    params = activation.get("params") if isinstance(activation, dict) else None
    kind = name.lower() if isinstance(name, str) else ""
    if kind == "relu":
        return Architecture("relu")
    if kind == "topk":
        given = params if isinstance(params, dict) else {}
        k = checkpoint.k(given, "top_k" if "top_k" in given else "k", _WHERE)
        return Architecture("topk", k=k, rectify=False)
    if kind in ("batchtopk", "jumprelu"):
        return Architecture("batchtopk", rectify=False)
    raise checkpoint.fail(
        f"the header has the activation {quoted(name)}; known are Relu, TopK, BatchTopK and JumpReLU."
    )
