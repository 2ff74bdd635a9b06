"""Our own layout, which holds every SAE exactly: one safetensors file with canonical tensor names (weights.py).

`sae/export/as_own.py` writes it. The header's metadata has `format` and `sae`, a JSON object: architecture (the fields
of Architecture); where known location and stream, or hook, another project's word for the place; layout, licence,
source and model of the checkpoint that it was made from; family and model_identity of the model that it was trained
on; trained_k of a BatchTopK SAE; contrast of directions that no training made: positive and negative (lists of
prompts), runs, norm and floor. The layers of a modulation have their own names behind `modulation.`.
"""

from __future__ import annotations

from dataclasses import fields
from itertools import chain
from typing import Any

from ..dictionary.activations import VECTORS, Architecture
from ..dictionary.modulation import TENSORS, Modulation
from ..dictionary.owner import ContrastOf
from ..files.quote import Plain, quoted
from ..files.small_json import is_number, parse_object
from ..places.site import Site, parse_location
from .checkpoint import Checkpoint, Config, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "SAE Steering"
LAYOUT_NAMES: tuple[str, ...] = ("sae_steering",)

NAME, VERSION = "sae_steering", 1
FORMAT = f"{NAME} {VERSION}"
MODULATION = "modulation."
MOST_RUNS = 10**9
_OPTIONAL = ("encoder_bias", "input_bias", "output_bias", "skip", *sorted(set(chain(*VECTORS.values()))))
_CHOICES = {"normalization": ("none", "layer_norm", "constant_norm"), "decoder_norm": ("none", "before", "after")}
_HEADER = "the description in its header"
_WORDS = words(
    LAYOUTS, read="architecture hook location stream contrast transcoder",
    idle="layout licence source model family model_identity trained_k",
)  # fmt: skip


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.metadata.get("format", "").split(" ")[0] == NAME


def read(checkpoint: Checkpoint) -> Reading:
    if checkpoint.metadata.get("format") != FORMAT:
        found = checkpoint.metadata.get("format", "none")
        raise checkpoint.fail(f"its header must have the format {FORMAT!r}, but has {quoted(found)}; update this pack.")
    described = Plain().copy(parse_object(checkpoint.metadata.get("sae", ""), f"{checkpoint.label}: {_HEADER}"))
    modulated = any(key.startswith(MODULATION) for key in checkpoint.header)
    layers = [f"{MODULATION}{name}" for name in TENSORS] if modulated else []
    checkpoint.check_tensors(("encoder", "decoder", *layers), LAYOUTS, optional=_OPTIONAL)
    names = [name for name in ("encoder", "decoder", *_OPTIONAL) if name in checkpoint.header]
    hook = described.get("hook")
    return Reading(
        checkpoint.stored(**{name: name for name in names}),
        _architecture(checkpoint, described),
        LAYOUTS,
        hook if isinstance(hook, str) else None,
        _site(checkpoint, described),
        _modulation(checkpoint) if modulated else None,
        described,
        _contrast(checkpoint, described),
        checkpoint.flag(described, "transcoder", False, _HEADER),
        _WORDS.check(checkpoint, described, _HEADER),
    )


def _architecture(checkpoint: Checkpoint, described: Config) -> Architecture:
    given = described.get("architecture")
    known = {field.name for field in fields(Architecture)}
    if not isinstance(given, dict) or not set(given) <= known or not isinstance(given.get("kind"), str):
        raise checkpoint.fail(
            f"{_HEADER} must give the architecture with kind and, where they matter, "
            f"{', '.join(sorted(known - {'kind'}))}; export the SAE again."
        )
    for name, choices in _CHOICES.items():
        if given.get(name, "none") not in choices:
            raise checkpoint.fail(f"{_HEADER} has {name} = {quoted(given[name])}; known are {', '.join(choices)}.")
    k = None if given.get("k") is None else checkpoint.whole_number(given, "k", _HEADER)
    rectify = checkpoint.flag(given, "rectify", True, _HEADER)
    try:
        return Architecture(**{**given, "k": k, "rectify": rectify})
    except ValueError as error:
        raise checkpoint.fail(f"{_HEADER} is not sound: {error}") from error


def _site(checkpoint: Checkpoint, described: Config) -> Site | None:
    location, stream = described.get("location"), described.get("stream")
    if location is None:
        return None
    if not isinstance(location, str) or not isinstance(stream, str):
        raise checkpoint.fail(
            f"{_HEADER} must give location and stream as texts, but has {quoted(location)}, {quoted(stream)}."
        )
    try:
        return parse_location(location, stream)
    except ValueError as error:
        raise checkpoint.fail(f"{_HEADER} is not sound: {error}") from error


def _contrast(checkpoint: Checkpoint, described: Config) -> ContrastOf | None:
    given: Any = described.get("contrast")
    match given:
        case None:
            return None
        case {"positive": list(positive), "negative": list(negative), "runs": int(runs), "norm": norm, "floor": floor}:
            texts = all(isinstance(text, str) for text in (*positive, *negative))
            lengths = is_number(norm) and norm > 0 and (floor is None or (is_number(floor) and floor >= 0))
            if texts and lengths and 0 < runs <= MOST_RUNS:
                return ContrastOf(tuple(positive), tuple(negative), runs, norm, floor)
    raise checkpoint.fail(
        f"{_HEADER} must give the contrast with positive and negative (lists of texts), runs, norm and floor, but has "
        f"{quoted(given)}; save the directions again."
    )


def _modulation(checkpoint: Checkpoint) -> Modulation:
    modulation = Modulation({name: checkpoint.source.whole(f"{MODULATION}{name}").float() for name in TENSORS})
    modulation.check(checkpoint.width_and_count("decoder", transposed=False)[0], checkpoint.label)
    return modulation
