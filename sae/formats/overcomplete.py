"""overcomplete's SAEs as state dicts: k and a running threshold are not in the file. No biases on input or output.

Source: github.com/KempnerInstitute/overcomplete. The dictionary's rows are brought to unit length and multiplied by one
number; relaxed archetypal dictionaries are convex combinations of data points with a bounded rest (arxiv 2502.12892).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dictionary.activations import Architecture
from ..dictionary.weights import Weight
from ..files.quote import quoted
from ..files.tensors import LARGEST, ComputedRows
from .checkpoint import Checkpoint, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "overcomplete"
LAYOUT_NAMES = ("overcomplete_relu", "overcomplete_topk", "overcomplete_jump")

_ENCODER, _BIAS = "encoder.final_block.0.weight", "encoder.final_block.0.bias"
_MULTIPLIER = "dictionary.multiplier"
_PLAIN = ("dictionary._weights",)
_ARCHETYPAL = ("dictionary.C", "dictionary.W", "dictionary.Relax")
_WORDS = words(LAYOUTS, idle="nb_concepts input_shape n_components")
_EPSILON = 1e-8  # added to lengths and sums before dividing
_MAX_RELAX = 1.0  # longest row of Relax: delta, whose value is not in the file


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has("dictionary._weights") or checkpoint.has("dictionary.C")


def read(checkpoint: Checkpoint) -> Reading:
    archetypal = checkpoint.has("dictionary.C")
    architecture = _architecture(checkpoint)
    thresholds = ("thresholds",) if architecture.kind == "jumprelu" else ()
    names = (_ENCODER, _BIAS, _MULTIPLIER, *(_ARCHETYPAL if archetypal else _PLAIN), *thresholds)
    checkpoint.check_tensors(names, LAYOUTS)
    factor = float(torch.tensor(checkpoint.source.number(_MULTIPLIER)).exp())
    if not factor <= LARGEST:
        raise checkpoint.fail(f"the exponential of {_MULTIPLIER} comes to {factor:.3g}, which overflows in use.")
    tensors = {
        **checkpoint.stored(encoder=_ENCODER, encoder_bias=_BIAS),
        "decoder": _archetypal(checkpoint, factor) if archetypal else _normalised(checkpoint, factor),
    }
    if thresholds:
        tensors["threshold"] = Weight(checkpoint.source, "thresholds", transform=_inclusive)
    dictionary = ", relaxed archetypal dictionary" if archetypal else ""
    known = _WORDS.and_read("k", "top_k") if architecture.k is not None else _WORDS
    notes = known.check(checkpoint, checkpoint.config, CONFIG_NAME)
    return Reading(tensors, architecture, f"{LAYOUTS} {architecture.kind}{dictionary}", notes=notes)


def _architecture(checkpoint: Checkpoint) -> Architecture:
    if checkpoint.asked == "overcomplete_jump" or checkpoint.has("thresholds"):
        return Architecture("jumprelu")
    if checkpoint.asked == "overcomplete_relu":
        return Architecture("relu")
    if checkpoint.asked_k is not None:
        checkpoint.check_config_shape(
            checkpoint.config or {}, dict.fromkeys(("k", "top_k"), checkpoint.asked_k), CONFIG_NAME
        )
        return Architecture("topk", k=checkpoint.asked_k)
    raise checkpoint.fail(
        "overcomplete does not store k, and its TopK and plain SAEs have the same tensors; name the layout in the "
        "input architecture: overcomplete_topk:32 (with the k of the training) or overcomplete_relu."
    )


def _inclusive(stored: Tensor) -> Tensor:
    """Thresholds are stored as logarithms, and a code that equals its threshold is kept."""
    return torch.nextafter(stored.exp(), torch.tensor(-torch.inf))


def _normalised(checkpoint: Checkpoint, factor: float) -> Weight:
    def rows(stored: Tensor) -> Tensor:
        return stored / (stored.norm(dim=1, keepdim=True) + _EPSILON) * factor

    return Weight(checkpoint.source, "dictionary._weights", transform=rows)


def _archetypal(checkpoint: Checkpoint, factor: float) -> Weight:
    points, mixture, rest = (checkpoint.header[name].shape for name in _ARCHETYPAL)
    if len(points) != 2 or len(rest) != 2 or mixture != (rest[0], points[0]) or points[1] != rest[1]:
        shapes = ", ".join(quoted(shape) for shape in (points, mixture, rest))
        raise checkpoint.fail(f"{', '.join(_ARCHETYPAL)} have the shapes {shapes}, which do not fit each other.")
    source = checkpoint.source

    def rows(start: int, stop: int) -> Tensor:
        weights = source.rows("dictionary.W", range(start, stop)).float().relu()
        relax = source.rows("dictionary.Relax", range(start, stop)).float()
        relax = relax * (_MAX_RELAX / relax.norm(dim=1, keepdim=True).clamp_min(_EPSILON)).clamp_max(1)
        mixed = weights / (weights.sum(1, keepdim=True) + _EPSILON) @ source.whole("dictionary.C").float()
        return (mixed + relax) * factor

    return Weight(ComputedRows((rest[0], rest[1]), rows, checkpoint.label), ComputedRows.KEY)
