"""Embeddings before the generator: which tensor an SAE belongs to, and its steering, reading and blending there.

An embedding belongs to one encoder family: equal widths do not make two of them one space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..finding.features import FeatureTally
from ..formats.known import known_checkpoint
from ..steering.delta import Steering
from ..steering.edits import Edit
from ..steering.record import SteeringRecord

Target = Literal["image_embeds", "last_hidden_state", "penultimate_hidden_states", "pooled_output", "token_embeddings"]
TARGETS: tuple[Target, ...] = get_args(Target)  # where two fit, the earlier one is taken
AUTO = "auto"
ALL = "all"

_HIDDEN = {1664: "CLIP ViT-bigG", 1280: "CLIP ViT-H", 1024: "CLIP ViT-L", 1152: "SigLIP so400m", 1536: "DINOv2 giant"}
FAMILIES: Mapping[Target, Mapping[int, str]] = {
    "image_embeds": {1280: "CLIP ViT-bigG", 1024: "CLIP ViT-H", 768: "CLIP ViT-L"},
    "last_hidden_state": _HIDDEN,
    "penultimate_hidden_states": _HIDDEN,
    "pooled_output": {768: "CLIP-L text", 1280: "CLIP-G text", 2048: "CLIP-L and CLIP-G text"},
    "token_embeddings": {
        768: "CLIP-L text",
        1024: "CLIP-H text",
        1280: "CLIP-G text",
        2048: "CLIP-L and CLIP-G text of SDXL",
        4096: "T5-XXL text",
    },
}


@dataclass(frozen=True)
class Place:
    """The tensor of an embedding that is read or edited, the tokens of it, and why."""

    target: Target
    tokens: str  # "all", or positions such as "0" and "2,5-8"
    reason: str


def home_of(sae: SparseAutoencoder) -> tuple[Target, str] | None:
    """The tensor and the tokens that an SAE was trained on, by the table of public SAEs or by its name."""
    known = known_checkpoint(sae.name)
    if known is not None and known.embedding is not None:
        target, tokens = known.embedding
        return _target(target), tokens
    named = [target for target in TARGETS if target in sae.name]
    return (named[0], ALL) if len(named) == 1 else None


def family(target: Target, width: int) -> str:
    """Such as `image_embeds 1280 (CLIP ViT-bigG)`."""
    known = FAMILIES[target].get(width)
    return f"{target} {width}" + (f" ({known})" if known else "")


def place_for(sae: SparseAutoencoder, widths: Mapping[Target, int], target: str = AUTO, tokens: str = ALL) -> Place:
    """Which of the tensors that an embedding has (with their widths) an SAE reads.

    `auto` follows what the SAE was trained on, else its width. Raises ValueError where nothing fits.
    """
    if target not in (AUTO, *TARGETS):
        raise ValueError(
            f"target: {target!r} is not a tensor of an embedding; use auto or one of {', '.join(TARGETS)}."
        )
    home = home_of(sae)
    present = "; ".join(family(name, width) for name, width in widths.items()) or "no tensor"
    if target != AUTO:
        return Place(_checked(sae, widths, target, present), _tokens(home, target, tokens), "as chosen")
    if home is not None:
        if home[0] not in widths:
            raise ValueError(
                f"embed: {sae.name} was trained on {home[0]}, but this embedding has {present}; connect one that has "
                f"{home[0]}, or set target to try another."
            )
        return Place(_checked(sae, widths, home[0], present), _tokens(home, home[0], tokens), "what it was trained on")
    fitting = [name for name in TARGETS if widths.get(name) == sae.d_in]
    if not fitting:
        raise ValueError(f"embed: {sae.name} reads width {sae.d_in}, but this embedding has {present}; {_ADVICE}")
    reason = f"the only one of width {sae.d_in}"
    if len(fitting) > 1:
        reason = f"{' and '.join(fitting)} have width {sae.d_in}; auto takes the first, target chooses another"
    return Place(fitting[0], tokens, reason)


_ADVICE = "encode with the encoder that the SAE was trained on."


def _checked(sae: SparseAutoencoder, widths: Mapping[Target, int], target: str, present: str) -> Target:
    name = _target(target)
    if name not in widths:
        raise ValueError(f"target: this embedding has no {name}; it has {present}.")
    if widths[name] != sae.d_in:
        raise ValueError(
            f"embed: {sae.name} reads {family(name, sae.d_in)}, but this embedding has {present}; {_ADVICE}"
        )
    return name


def _target(name: str) -> Target:
    return next(target for target in TARGETS if target == name)


def _tokens(home: tuple[Target, str] | None, target: str, tokens: str) -> str:
    """An SAE of the class token alone is used on that token, unless others are asked for."""
    return home[1] if home is not None and home[0] == target and tokens.strip() == ALL else tokens


def token_positions(text: str, count: int, words: Mapping[int, Sequence[int]] | None = None) -> list[int] | None:
    """`all` -> None; `0,2,5-8` -> these positions of `count` tokens.

    With `words` (number of a word, from 1 -> positions of its tokens) the numbers are those of words. ValueError for
    other text and for positions that are not there.
    """
    text = text.replace(" ", "")
    if text == ALL:
        return None
    if not re.fullmatch(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", text):
        raise ValueError(f"tokens: {text!r} does not name tokens; write all, or positions such as 0 or 2,5-8.")
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), min(int(last or first), 10**6) + 1)
    known = range(count) if words is None else words.keys()
    beyond = next((number for number in numbers if number not in known), None)
    if beyond is not None or not numbers:
        what = f"tokens are numbered 0 to {count - 1}" if words is None else f"words are numbered 1 to {len(words)}"
        raise ValueError(f"tokens: there is no {text if beyond is None else beyond} in this text; its {what}.")
    if words is not None:
        numbers = [position for number in numbers for position in words[number]]
    return sorted(set(numbers))


def check_embedding(x: Tensor, target: Target) -> None:
    """ValueError for an embedding without entries or with values that are not numbers."""
    if not x.numel():
        raise ValueError(f"embed: its {target} is empty, {list(x.shape)}; encode a picture or a text first.")
    if not torch.isfinite(x).all():
        raise ValueError(f"embed: its {target} has NaN or infinite values; encode again, in float32 if need be.")


def chosen_tokens(x: Tensor, target: Target, tokens: str, words: Mapping[int, Sequence[int]] | None) -> Tensor:
    """(batch, chosen tokens, width) of x (batch, width) or (batch, tokens, width); ValueError as in the checks."""
    check_embedding(x, target)
    if x.ndim == 2:
        if tokens.strip() != ALL:
            raise ValueError(f"tokens: {target} is one vector, so there are none to choose from; write all.")
        return x.unsqueeze(1)
    positions = token_positions(tokens, x.shape[1], words)
    return x if positions is None else x[:, positions]


def with_tokens(x: Tensor, edited: Tensor, tokens: str, words: Mapping[int, Sequence[int]] | None) -> Tensor:
    """A copy of x with the tokens that `chosen_tokens` gave replaced by `edited`."""
    if x.ndim == 2:
        return edited.squeeze(1)
    positions = token_positions(tokens, x.shape[1], words)
    if positions is None:
        return edited
    copy = x.clone()
    copy[:, positions] = edited
    return copy


def steer_tokens(x: Tensor, steering: Steering, record: SteeringRecord) -> Tensor:
    """x (batch, tokens, d_in) steered, in x's dtype and on its device; x itself where the steering changes nothing."""
    if steering.changes_nothing:
        return x
    delta = steering.delta(x)
    steered = x + delta.to(x.dtype)
    if not torch.isfinite(steered).all():
        raise ValueError(f"strength: {steering.strength:g} takes the embedding out of {x.dtype}; lower the strength.")
    record.note(0.0, x, delta, steered, x.new_ones(x.shape[:2], dtype=torch.float32))
    return steered


def blend_tokens(
    x: Tensor, source: Tensor, sae: SparseAutoencoder, edits: Sequence[Edit], amount: float, record: SteeringRecord
) -> Tensor:
    """Gives tokens x (batch, tokens, d_in) the activations of `source`: Δ = amount · Σ s_k (f_k(source) - f_k(x)) d_k.

    s_k is an edit's own strength. A source of one picture serves the whole batch.
    """
    if not edits:
        raise ValueError("features: the list is empty, so there is nothing to transfer; connect features.")
    if source.shape[1:] != x.shape[1:] or source.shape[0] not in (1, x.shape[0]):
        raise ValueError(
            f"source: its shape is {list(source.shape)}, but the embedding's is {list(x.shape)}; encode both with one "
            "encoder, and give one source or one for each picture."
        )
    if amount == 0:
        return x
    features = [edit.feature for edit in edits]
    twice = next((k for k in features if features.count(k) > 1), None)
    if twice is not None:
        raise ValueError(f"features: feature {twice} is named twice, but can be transferred only once; name it once.")
    strengths = torch.tensor([edit.strength for edit in edits], device=x.device)
    shift = amount * strengths * (sae.codes(source, features) - sae.codes(x, features))
    delta = (shift @ sae.direction(features).to(x.device)) * sae.token_scale(x)
    blended = x + delta.to(x.dtype)
    record.note(0.0, x, delta, blended, x.new_ones(x.shape[:2], dtype=torch.float32))
    return blended


def tally_tokens(sae: SparseAutoencoder, x: Tensor) -> FeatureTally:
    """Which features fire on tokens x (batch, tokens, d_in)."""
    tally = FeatureTally(sae.d_sae)
    tally.add(sae.encode_sparse(x))
    return tally
