"""The tokenizer of the demo's CLIP: CLIP's own kind, over the Shapes words alone, each word one token."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from sae.demo.shapes import WORDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz,."
MAX_TOKENS = 8  # start, five words, end, and one to spare

Merge = tuple[str, str]


def build_tokenizer() -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    merges = word_merges()
    vocabulary = {token: number for number, token in enumerate(_vocabulary(merges))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def token_count() -> int:
    return len(_vocabulary(word_merges()))


def end_token() -> int:
    """The id that ends a text; CLIP's text encoder reads a text's embedding there."""
    return _vocabulary(word_merges()).index(END)


def word_merges() -> list[Merge]:
    """Byte-pair merges, in order, that join each known word into one token and change no earlier word."""
    merges: list[Merge] = []
    for word in WORDS:
        pieces = _apply(merges, [*word[:-1], word[-1] + "</w>"])
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = _apply(merges, pieces)
    return merges


def _apply(merges: list[Merge], pieces: list[str]) -> list[str]:
    """Joins the neighbours whose merge comes first, until none is left."""
    rank = {merge: number for number, merge in enumerate(merges)}
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        at = next(i for i, pair in enumerate(pairwise(pieces)) if pair == best)
        pieces = [*pieces[:at], "".join(best), *pieces[at + 2 :]]
    return pieces


def _vocabulary(merges: list[Merge]) -> list[str]:
    characters = [*CHARACTERS, *(character + "</w>" for character in CHARACTERS)]
    joined = dict.fromkeys("".join(merge) for merge in merges)
    return [*characters, *joined, START, END]
