"""Names features of SAEs in a CLIP space, each by the word whose text embedding points most where it does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..known.labels import SOURCES, Label, Labels
from .labelling import TOLD, UNCLEAR

CHUNK = 4096  # features at once


def text_rows(embeds: Tensor, contexts: int) -> Tensor:
    """A row for each word, (W, d), of text embeddings (W · contexts, d): their mean, without what all words share.

    What all texts have in common, above all the gap between texts and pictures in CLIP, names nothing.
    """
    unit = torch.nn.functional.normalize(embeds.float(), dim=-1)
    rows = unit.unflatten(0, (-1, contexts)).mean(1)
    return torch.nn.functional.normalize(rows - rows.mean(0), dim=-1)


def label_directions(
    sae: SparseAutoencoder, words: Sequence[str], rows: Tensor, threshold: float, contexts: int = 1
) -> Labels:
    """Labels by cosine with rows (W, d_in) of `text_rows`; ValueError for another width.

    The score is the part of the best cosine that the second word does not reach; below `threshold` it is unclear.
    Each row is the mean of `contexts` texts.
    """
    if rows.shape[-1] != sae.d_in:
        raise ValueError(
            f"encoder: its texts have width {rows.shape[-1]}, but {sae.name} lives in a space of width {sae.d_in}; use "
            "the text encoder of the CLIP that the SAE was trained on."
        )
    found: Labels = {}
    for first in range(0, sae.d_sae, CHUNK):
        ids = list(range(first, min(first + CHUNK, sae.d_sae)))
        cosines = torch.nn.functional.normalize(sae.direction(ids).float().cpu(), dim=-1) @ rows.cpu().T
        height, order = cosines.topk(min(TOLD, len(words)), dim=-1)
        for k, values, best in zip(ids, height.tolist(), order.tolist(), strict=True):
            if values[0] > 0:  # a dead feature has no direction
                found[k] = _label([words[word] for word in best], values, threshold, contexts)
    return found


def _label(words: list[str], cosines: list[float], threshold: float, contexts: int) -> Label:
    score = min(1 - cosines[1] / cosines[0], 1.0)
    told = ", ".join(f"{word} {cosine:.2f}" for word, cosine in zip(words, cosines, strict=True))
    return Label(
        (words[0] if score >= threshold else UNCLEAR)[:200],
        f"closest to {told}"[:2000],
        SOURCES[1],
        round(score, 3),
        contexts,
    )
