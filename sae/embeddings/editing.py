"""Steering, reading and blending the tokens of an embedding, before the generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..steering.delta import Steering
from ..steering.edits import Edit
from ..steering.record import SteeringRecord
from ..steering.summary import LARGE_EMBED_DELTA
from .spot import ALL, Target, token_positions


def check_embedding(x: Tensor, target: str) -> None:
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


def embedding_record() -> SteeringRecord:
    """A record that warns where an embedding, rather than a block's activation, is destroyed."""
    return SteeringRecord(limit=LARGE_EMBED_DELTA)


def steer_tokens(x: Tensor, steering: Steering, record: SteeringRecord) -> Tensor:
    """x (batch, tokens, d_in) steered, in x's dtype and on its device; x itself where the steering changes nothing."""
    if steering.changes_nothing:
        return x
    change = steering.change(x)
    steered = x + change.delta.to(x.dtype)
    if not torch.isfinite(steered).all():
        raise ValueError(f"strength: {steering.strength:g} takes the embedding out of {x.dtype}; lower the strength.")
    everywhere = x.new_ones(x.shape[:2], dtype=torch.float32)
    record.note(0.0, x, change.delta, steered, everywhere, "", steering.presence_of, change.presence)
    return steered


def blend_tokens(
    x: Tensor, source: Tensor, sae: SparseAutoencoder, edits: Sequence[Edit], amount: float, record: SteeringRecord
) -> Tensor:
    """Gives tokens x (batch, tokens, d_in) the activations of `source`: Δ = amount · Σ s_k (f_k(source) - f_k(x)) d_k.

    s_k is an edit's own strength. A source with a picture for each of the batch is taken row by row; of any other
    number, f_k(source) is the mean over its pictures and serves the whole batch.
    """
    if not edits:
        raise ValueError("features: the list is empty, so there is nothing to transfer; connect features.")
    if source.shape[1:] != x.shape[1:] or not source.shape[0]:
        raise ValueError(
            f"source: its shape is {list(source.shape)}, but the embedding's is {list(x.shape)}; encode both with one "
            "encoder."
        )
    if amount == 0:
        return x
    features = [edit.feature for edit in edits]
    twice = next((k for k in features if features.count(k) > 1), None)
    if twice is not None:
        raise ValueError(f"features: feature {twice} is named twice, but can be transferred only once; name it once.")
    strengths = torch.tensor([edit.strength for edit in edits], device=x.device)
    given = sae.codes(source, features)
    if source.shape[0] != x.shape[0]:
        given = given.mean(dim=0, keepdim=True)
    shift = amount * strengths * (given - sae.codes(x, features))
    delta = (shift @ sae.direction(features).to(x.device)) * sae.token_scale(x)
    blended = x + delta.to(x.dtype)
    record.note(0.0, x, delta, blended, x.new_ones(x.shape[:2], dtype=torch.float32))
    return blended
