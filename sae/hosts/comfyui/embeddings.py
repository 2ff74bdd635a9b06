"""ComfyUI's two kinds of embedding, CLIP_VISION_OUTPUT and CONDITIONING, as named tensors.

Nothing here imports ComfyUI: both kinds are plain Python objects. ComfyUI caches what nodes return, so an embedding is
never written into; an edited one is a copy that shares every other tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor

from ...dictionary.autoencoder import SparseAutoencoder
from ...embeddings.editing import chosen_tokens, with_tokens
from ...embeddings.spot import AUTO, Spot, Target, spot_for

VISION_TARGETS: tuple[Target, ...] = ("image_embeds", "last_hidden_state", "penultimate_hidden_states")
POOLED: Target = "pooled_output"
TOKENS: Target = "token_embeddings"

Words = Mapping[int, Sequence[int]]
Edit = Callable[[Tensor], Tensor]  # tokens (batch, tokens, width) -> the same shape


def is_conditioning(embed: Any) -> bool:
    return isinstance(embed, list)


def tensors_of(embed: Any) -> list[dict[Target, Tensor]]:
    """The tensors of each entry: one for a CLIP_VISION_OUTPUT, one or more for a CONDITIONING.

    SigLIP has no vector of the whole picture: its image_embeds are its tokens again, and no consumer reads them.
    """
    if is_conditioning(embed):
        if not embed:
            raise ValueError("embed: this conditioning is empty; connect an encoded text.")
        return [_of_text(tokens, extra) for tokens, extra in embed]
    found = {name: getattr(embed, name, None) for name in VISION_TARGETS}
    tensors: dict[Target, Tensor] = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    if "image_embeds" in tensors and tensors["image_embeds"].ndim != 2:
        del tensors["image_embeds"]
    if not tensors:
        raise ValueError(f"embed: {type(embed).__name__} came; connect a CLIP_VISION_OUTPUT or a CONDITIONING.")
    return [tensors]


def _of_text(tokens: Tensor, extra: Mapping[str, Any]) -> dict[Target, Tensor]:
    pooled = extra.get(POOLED)
    return {POOLED: pooled, TOKENS: tokens} if isinstance(pooled, Tensor) else {TOKENS: tokens}


def spot_in(embed: Any, sae: SparseAutoencoder, target: str = AUTO, tokens: str = "all") -> Spot:
    """The tensor of this embedding that the SAE reads; ValueError where none fits, in any of its entries."""
    places = [
        spot_for(sae, {name: tensor.shape[-1] for name, tensor in tensors.items()}, target, tokens)
        for tensors in tensors_of(embed)
    ]
    return places[0]


def read(embed: Any, spot: Spot, words: Words | None = None) -> Tensor:
    """The chosen tokens (batch, tokens, width) of every entry, on one device; entries are put in a row."""
    parts = [
        chosen_tokens(tensors[spot.target].detach(), spot.target, spot.tokens, words) for tensors in tensors_of(embed)
    ]
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.reshape(1, -1, part.shape[-1]) for part in parts], dim=1)


def edited(embed: Any, spot: Spot, edit: Edit, words: Words | None = None) -> Any:
    """A copy of the embedding, of the same type, with `edit` applied to the chosen tokens of every entry.

    The very tensor is kept where `edit` returns what it got. Gradients are not followed.
    """
    if not is_conditioning(embed):
        before = getattr(embed, spot.target)
        changed = copy.copy(embed)
        setattr(changed, spot.target, _edited(before, spot, edit, words))
        return changed
    entries = []
    for tokens, extra in embed:
        if spot.target == POOLED:
            entries.append([tokens, {**extra, POOLED: _edited(extra[POOLED], spot, edit, words)}])
        else:
            entries.append([_edited(tokens, spot, edit, words), dict(extra)])
    return entries


def _edited(x: Tensor, spot: Spot, edit: Edit, words: Words | None) -> Tensor:
    with torch.no_grad():
        chosen = chosen_tokens(x.detach(), spot.target, spot.tokens, words)
        result = edit(chosen)
        return x if result is chosen else with_tokens(x.detach(), result, spot.tokens, words)


Tokenized = Mapping[str, Sequence[Sequence[tuple[Any, ...]]]]  # encoder -> chunks of (token, weight, word id)


def word_positions(tokenize: Callable[[str], Tokenized], text: str, length: int) -> dict[int, list[int]]:
    """Number of a word, from 1 -> positions of its tokens among the `length` token embeddings of this text.

    `tokenize` is `clip.tokenize(text, return_word_ids=True)`. Its word ids only tell text from start, end and padding,
    so words are found by their prefixes: both CLIP and T5 cut a text at its blanks first.
    """
    if set(text) & set("()"):
        raise ValueError("text: its words cannot be counted while weights in parentheses stand in it; leave them out.")
    words = text.split()
    places = _text_positions(tokenize(text))
    ends = [len(_text_positions(tokenize(" ".join(words[:count])))) for count in range(len(words) + 1)]
    if places and (ends[-1] != len(places) or places[-1] >= length):
        raise ValueError(
            f"text: it has {len(places)} tokens, which are not those of this conditioning ({length}); write the text "
            "that was encoded."
        )
    return {number + 1: places[first:last] for number, (first, last) in enumerate(pairwise(ends))}


def _text_positions(tokenized: Tokenized) -> list[int]:
    """Where the text's own tokens stand; T5's list where there is one, for it makes the token embeddings."""
    chunks = next((tokenized[name] for name in tokenized if "t5" in name), next(iter(tokenized.values())))
    return [position for position, token in enumerate(chain.from_iterable(chunks)) if token[2] > 0]
