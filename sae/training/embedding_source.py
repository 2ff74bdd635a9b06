"""Embeddings of pictures or texts as a source: each is encoded once, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.small_json import digest_of
from ..places.moment import unheard
from ..places.site import Site
from .source import Chunk, generator_of

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
HELD_OUT_SHARE = 0.1
ENCODED = 32  # items at once
FEWEST = 10

Encode = Callable[[Sequence[Any]], Tensor]  # items to (n, d_in), or (n, tokens, d_in)


class EmbeddingSource:
    """What an encoder makes of items (paths of pictures, texts), a tenth of which is held out."""

    def __init__(
        self,
        items: Sequence[Any],
        encode: Encode,
        name: str,
        about: Mapping[str, str | int | float],
        batch: int = 512,
        seed: int = 0,
    ) -> None:
        """A call gives `batch` items; ValueError where there are too few."""
        if len(items) < FEWEST:
            raise ValueError(f"data: {len(items)} came, but {FEWEST} or more are needed to train on; give more.")
        self.items, self.encode, self.name, self.batch, self.seed = list(items), encode, name, batch, seed
        self.sites: dict[str, Site | None] = {name: None}
        self._about, self._digest = dict(about), digest_of(self.items)
        self._order: tuple[tuple[int, int], list[int]] = ((-1, -1), [])  # of a pool (its length) and pass
        self._known: dict[int, Tensor] = {}  # (tokens, d_in) by the number of the item
        order: list[int] = torch.randperm(len(self.items), generator=generator_of(seed)).tolist()
        held_out = max(1, round(len(order) * HELD_OUT_SHARE))
        self._held_out, self._training = order[:held_out], order[held_out:]

    @property
    def about(self) -> dict[str, str | int | float]:
        items: dict[str, str | int | float] = {"items": len(self.items), "digest of items": self._digest}
        return {**self._about, **items, "seed": self.seed, "batch": self.batch}

    @property
    def held_out_items(self) -> int:
        return len(self._held_out)

    @property
    def width(self) -> int:
        """Of the embeddings; one is encoded to tell."""
        self._encode(self._training[:1])
        return self._known[self._training[0]].shape[1]

    def encode_all(self, on_items: Callable[[int, int], None] = unheard) -> None:
        """Encodes every item now, so that the encoder is not needed later. `on_items` may raise to cancel."""
        for first in range(0, len(self.items), ENCODED):
            on_items(first, len(self.items))
            self._encode(range(first, min(first + ENCODED, len(self.items))))

    def training(self, number: int) -> dict[str, Chunk]:
        return self._call(self._training, number)

    def held_out(self, number: int) -> dict[str, Chunk]:
        return self._call(self._held_out, number)

    def _call(self, pool: list[int], number: int) -> dict[str, Chunk]:
        calls = -(-len(pool) // self.batch)
        order = self._shuffled(len(pool), number // calls)
        first = number % calls * self.batch
        return {self.name: self._chunk([pool[place] for place in order[first : first + self.batch]])}

    def _shuffled(self, count: int, passed: int) -> list[int]:
        if self._order[0] != (count, passed):
            order = torch.randperm(count, generator=generator_of(self.seed, passed)).tolist()
            self._order = (count, passed), order
        return self._order[1]

    @torch.no_grad()
    def _encode(self, numbers: Iterable[int]) -> None:
        missing = [number for number in numbers if number not in self._known]
        for first in range(0, len(missing), ENCODED):
            new = missing[first : first + ENCODED]
            encoded = self.encode([self.items[number] for number in new]).detach().cpu()
            for number, rows in zip(new, encoded.unsqueeze(1) if encoded.ndim == 2 else encoded, strict=True):
                self._known[number] = rows.clone()

    def _chunk(self, numbers: list[int]) -> Chunk:
        self._encode(numbers)
        rows = [self._known[number] for number in numbers]
        prompts = torch.tensor(numbers).repeat_interleave(torch.tensor([len(part) for part in rows]))
        tokens = torch.cat(rows)
        return Chunk(tokens, torch.full((len(tokens),), torch.nan), prompts)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder and what is in it, by name; ValueError where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES) if folder.is_dir() else []
    if not found:
        raise ValueError(f"data: {folder} is no folder with pictures ({', '.join(sorted(PICTURES))}); give one.")
    return found


def lines_of(file: Path) -> list[str]:
    """The prompts of a text file, one a line; ValueError where there are none."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompts: {file} cannot be read as a text file in UTF-8; give one prompt a line.") from error
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"prompts: {file.name} has no prompts; give one a line.")
    return found
