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
from ...embeddings.hidden_states import tap_at
from ...embeddings.spot import AUTO, Spot, Target, spot_for

VISION_TARGETS: tuple[Target, ...] = ("image_embeds", "last_hidden_state", "penultimate_hidden_states")
POOLED: Target = "pooled_output"
TOKENS: Target = "token_embeddings"
LLAMA: Target = "conditioning_llama3"  # HiDream's: (batch, hidden states, tokens, width)

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
    pooled, states = extra.get(POOLED), extra.get(LLAMA)
    found: dict[Target, Tensor] = {POOLED: pooled} if isinstance(pooled, Tensor) else {}
    found[TOKENS] = tokens
    if isinstance(states, Tensor) and states.ndim == 4:
        found[LLAMA] = states.movedim(1, 2).flatten(2)  # side by side
    return found


def spot_in(embed: Any, sae: SparseAutoencoder, target: str = AUTO, tokens: str = "all", tap: str = AUTO) -> Spot:
    """The tensor of this embedding that the SAE reads; ValueError where none fits, in any of its entries."""
    places = [
        spot_for(sae, {name: tensor.shape[-1] for name, tensor in tensors.items()}, target, tokens, tap)
        for tensors in tensors_of(embed)
    ]
    return places[0]


def read(embed: Any, spot: Spot, words: Words | None = None) -> Tensor:
    """The chosen tokens (batch, tokens, width) of every entry, on one device; entries are put in a row."""
    parts = [
        chosen_tokens(_part(tensors[spot.target].detach(), spot), spot.target, spot.tokens, words)
        for tensors in tensors_of(embed)
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
        elif spot.target == LLAMA:
            states = extra[LLAMA]
            before = states.movedim(1, 2).flatten(2)
            after = _edited(before, spot, edit, words)
            changed = states if after is before else after.unflatten(2, states.shape[1::2]).movedim(2, 1)
            entries.append([tokens, {**extra, LLAMA: changed}])
        else:
            entries.append([_edited(tokens, spot, edit, words), dict(extra)])
    return entries


def _edited(x: Tensor, spot: Spot, edit: Edit, words: Words | None) -> Tensor:
    with torch.no_grad():
        part = _part(x.detach(), spot)
        chosen = chosen_tokens(part, spot.target, spot.tokens, words)
        result = edit(chosen)
        if result is chosen:
            return x
        changed = with_tokens(part, result, spot.tokens, words)
        if spot.tap is None:
            return changed
        whole = x.detach().clone()
        _part(whole, spot).copy_(changed)
        return whole


def _part(x: Tensor, spot: Spot) -> Tensor:
    """The hidden state that is meant, of (batch, tokens, several side by side); a view."""
    return x if spot.tap is None else x[..., spot.tap.columns]


Tokenized = Mapping[str, Sequence[Sequence[tuple[Any, ...]]]]  # encoder -> chunks of (token, weight, word id)


def word_positions(tokenize: Callable[[str], Tokenized], text: str, length: int) -> dict[int, list[int]]:
    """Number of a word, from 1 -> positions of its tokens among the `length` token embeddings of this text.

    `tokenize` is `clip.tokenize(text, return_word_ids=True)`. Its word ids only tell text from start, end and padding,
    so words are found by their prefixes: CLIP, T5 and language models cut a text at its blanks first. A language model
    wraps the text into a template, which stands before and behind each prefix too; some leave its begin out of the
    embeddings.
    """
    if set(text) & set("()"):
        raise ValueError("text: its words cannot be counted while weights in parentheses stand in it; leave them out.")
    words = text.split()
    tokens = _tokens_of(tokenize(text))
    left_out = max(0, len(tokens) - length)
    places = [position - left_out for position, token in enumerate(tokens) if token[2] > 0]
    prefixes = [_own(tokenize(" ".join(words[:count]))) for count in range(len(words) + 1)]
    before = _same_start(prefixes[0], prefixes[-1])
    ends = [before + len(prefix) - len(prefixes[0]) for prefix in prefixes]
    outside = any(not 0 <= position < length for position in places[before : ends[-1]])
    if len(prefixes[-1]) != len(places) or outside:
        raise ValueError(
            f"text: it has {len(places)} tokens, which are not those of this conditioning ({length}); write the text "
            "that was encoded."
        )
    return {number + 1: places[first:last] for number, (first, last) in enumerate(pairwise(ends))}


def token_words(clip: Any, text: str, length: int) -> list[str]:
    """Of the first of `length` token embeddings the word that each belongs to, as far as the text reaches.

    A word of several tokens stands at its first, "" at the others and at the start. As `word_positions`; an encoder
    that has `token_words` of its own is asked.
    """
    if hasattr(clip, "token_words"):
        return clip.token_words(text)
    places = word_positions(lambda part: clip.tokenize(part, return_word_ids=True), text, length)
    found = [""] * (1 + max((max(positions) for positions in places.values() if positions), default=-1))
    for word, positions in zip(text.split(), places.values(), strict=True):
        if positions:
            found[positions[0]] = word
    return found


def _tokens_of(tokenized: Tokenized) -> list[tuple[Any, ...]]:
    """All tokens; T5's list where there is one, for it makes the token embeddings."""
    chunks = next((tokenized[name] for name in tokenized if "t5" in name), next(iter(tokenized.values())))
    return list(chain.from_iterable(chunks))


def _own(tokenized: Tokenized) -> list[Any]:
    """The tokens of the text and its template, without start, end and padding."""
    return [token[0] for token in _tokens_of(tokenized) if token[2] > 0]


def _same_start(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many tokens both begin with: those of the template before the text."""
    pairs = zip(one, other, strict=False)
    return next(
        (at for at, (a, b) in enumerate(pairs) if not (isinstance(a, int) and a == b)), min(len(one), len(other))
    )


def text_mean(clip: Any, text: str, embed: Any, spot: Spot) -> Tensor:
    """(batch, width): the mean over a text's own tokens, without its template, start, end and padding."""
    length = tensors_of(embed)[0][TOKENS].shape[1]
    words = word_positions(lambda part: clip.tokenize(part, return_word_ids=True), text, length)
    return read(embed, spot)[:, sorted(chain.from_iterable(words.values()))].mean(1)


def text_tokens(embed: Any, tap: str) -> Tensor:
    """(tokens, width): a conditioning's tokens at the hidden state `tap`, or whole with `all`; ValueError for no tap.

    Without padding, where the conditioning tells it.
    """
    parts = []
    for tokens, extra in embed:
        mask = extra.get("attention_mask")
        told = isinstance(mask, Tensor) and mask.shape == tokens.shape[:2]
        chosen = tokens.detach()[mask.bool().to(tokens.device)] if told else tokens.detach().flatten(0, 1)
        part = tap_at(chosen.shape[-1], tap)
        parts.append(chosen if part is None else chosen[:, part.columns])
    return torch.cat(parts)
