"""Tokens kept on disk: safetensors shards with an index, read back in another order each time.

`index.json` has `format`; `sites` by name, each with `location`, `stream` (null for embeddings) and `width`; `dtype`;
`shards`, each with its `file` and the `tokens` of each site; and `about`, what decided the tokens. A shard has for each
site the tensors NAME.tokens (n, width), NAME.sigma (n,) float32 and NAME.prompt (n,) int64.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files.small_json import read_json, write_json
from ..places.site import Site, parse_location
from .source import SHARE, TOKENS, Chunk, Source, generator_of

INDEX, FORMAT = "index.json", "sae_steering shards 1"
SHARD = "shard-{:05}.safetensors"
DTYPE = torch.bfloat16
SHARDS, MOST_TOKENS, FEWEST_TOKENS = 20, 16_384, 256  # how many shards at least, and their tokens of each site
HELD_OUT_SHARE = 0.05
PARTS = ("tokens", "sigma", "prompt")
SIDE_BYTES = 12  # of a token's noise level and prompt


def bytes_of(tokens: int, widths: Mapping[str, int]) -> int:
    """What so many tokens of each site take on disk."""
    return tokens * sum(width * DTYPE.itemsize + SIDE_BYTES for width in widths.values())


class ShardWriter:
    """Writes calls into shards until each site has `tokens`."""

    def __init__(
        self,
        folder: Path,
        sites: Mapping[str, Site | None],
        widths: Mapping[str, int],
        tokens: int,
        what: str = "keep",
    ) -> None:
        """Goes on with what is in the folder. ValueError where the disk has no room for the rest, before anything.

        `what` is the input that asked, for messages.
        """
        self.folder, self.sites, self.widths, self.tokens, self.what = folder, dict(sites), dict(widths), tokens, what
        self.about: Mapping[str, str | int | float] | None = None  # of the tokens that lie there
        self.size = min(MOST_TOKENS, max(FEWEST_TOKENS, tokens // SHARDS))
        self.waiting: dict[str, list[Chunk]] = {name: [] for name in sites}
        self.shards: list[dict[str, Any]] = []
        self.calls = 0  # those that came so far are on disk
        if (folder / INDEX).is_file():
            self._take_up(read_index(folder))
        missing = max(0, tokens - min(self.kept.values(), default=0))
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = bytes_of(missing, self.widths), shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(
                f"{what}: {tokens:,} tokens of each site need {needed / 1e9:.1f} GB more in {folder}, which has "
                f"{free / 1e9:.1f} GB left; keep fewer, or choose another folder."
            )

    @property
    def kept(self) -> dict[str, int]:
        """Tokens on disk, by site."""
        return {name: sum(shard["tokens"][name] for shard in self.shards) for name in self.sites}

    @property
    def full(self) -> bool:
        return all(count >= self.tokens for count in self.kept.values())

    def check(self, about: Mapping[str, str | int | float]) -> None:
        """ValueError where other tokens lie there: of another model, prompts or seed. More of the same may come."""
        theirs, ours = _deciding(self.about or about), _deciding(about)
        other = next((name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)), None)
        if other is not None:
            raise ValueError(
                f"{self.what}: {self.folder} has tokens with {other} = {theirs.get(other)!r}, but these have "
                f"{ours.get(other)!r}; choose another folder."
            )

    def add(self, number: int, chunks: Mapping[str, Chunk], about: Mapping[str, str | int | float]) -> None:
        """Takes call `number`, unless it is on disk already; writes a shard when there is enough of each site."""
        if self.full or number < self.calls:
            return
        for name, chunk in chunks.items():
            self.waiting[name].append(chunk)
        lengths = [sum(len(chunk.tokens) for chunk in waiting) for waiting in self.waiting.values()]
        if min(lengths) >= self.size:
            self._write(number, about)

    def _write(self, number: int, about: Mapping[str, str | int | float]) -> None:
        tensors: dict[str, Tensor] = {}
        counts = {}
        for name, chunks in self.waiting.items():
            parts = [torch.cat(part) for part in zip(*chunks, strict=True)]
            parts[0] = parts[0].to(DTYPE)
            counts[name] = len(parts[0])
            tensors |= {f"{name}.{key}": part.contiguous() for key, part in zip(PARTS, parts, strict=True)}
        path = self.folder / SHARD.format(len(self.shards))
        unfinished = path.with_name(path.name + ".tmp")
        try:
            save_file(tensors, unfinished)
            unfinished.replace(path)
            self.shards.append({"file": path.name, "tokens": counts})
            self.calls = number + 1
            write_json(self.folder / INDEX, self._index(about))
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or "the disk may be full"
            raise ValueError(
                f"{self.what}: {path.name} cannot be written ({reason}); "
                f"the {len(self.shards)} shards before it are whole, and the run goes on when there is room again."
            ) from error
        self.waiting = {name: [] for name in self.sites}

    def _index(self, about: Mapping[str, str | int | float]) -> dict[str, Any]:
        places = {
            name: {
                "location": site.location if site else None,
                "stream": site.stream if site else None,
                "width": self.widths[name],
            }
            for name, site in self.sites.items()
        }
        dtype = str(DTYPE).removeprefix("torch.")
        told = {"format": FORMAT, "sites": places, "dtype": dtype, "calls": self.calls, "shards": self.shards}
        return told | {"about": dict(about)}

    def _take_up(self, index: Mapping[str, Any]) -> None:
        theirs = {name: place["width"] for name, place in index["sites"].items()}
        if theirs != self.widths:
            raise ValueError(f"{self.what}: {self.folder} has tokens of other sites or widths; choose another folder.")
        self.shards, self.calls, self.about = list(index["shards"]), int(index["calls"]), index["about"]


def _deciding(about: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """What decides the tokens, without how many of them are kept."""
    return {name: value for name, value in about.items() if not name.startswith(SHARE) and name != TOKENS}


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder of shards; ValueError where it is none."""
    index = read_json(folder / INDEX, "index of shards")
    if index.get("format") != FORMAT or not index.get("shards"):
        raise ValueError(f"data: {folder} has no shards in the format {FORMAT!r}; collect the tokens again.")
    return index


class KeepingSource:
    """Another source, whose training tokens are written to disk as they come."""

    def __init__(self, source: Source, writer: ShardWriter) -> None:
        writer.check(source.about)
        self.source, self.writer = source, writer
        self.sites, self.about = source.sites, source.about

    def training(self, number: int) -> Mapping[str, Chunk]:
        chunks = self.source.training(number)
        self.writer.add(number, chunks, self.about)
        return chunks

    def held_out(self, number: int) -> Mapping[str, Chunk]:
        return self.source.held_out(number)


class ShardSource:
    """Reads shards back: one a call, in another order each time through, its tokens mixed."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.index = read_index(folder)
        places = self.index["sites"]
        self.sites = {
            name: parse_location(place["location"], place["stream"]) if place["location"] else None
            for name, place in places.items()
        }
        self.widths = {name: int(place["width"]) for name, place in places.items()}
        shards = self.index["shards"]
        self.tokens = {name: sum(shard["tokens"][name] for shard in shards) for name in places}  # on disk
        files = [shard["file"] for shard in shards]
        if len(files) < 2:
            raise ValueError(f"data: {folder} has one shard, but one is held out and others are trained on; keep more.")
        held_out = max(1, round(len(files) * HELD_OUT_SHARE))
        self._held_out, self._training = files[-held_out:], files[:-held_out]

    @property
    def about(self) -> dict[str, str | int | float]:
        return {**self.index["about"], "shards": len(self._training), "order": self.seed}

    def training(self, number: int) -> dict[str, Chunk]:
        passed, place = divmod(number, len(self._training))
        order = torch.randperm(len(self._training), generator=generator_of(self.seed, passed))
        return self._read(self._training[int(order[place])], generator_of(self.seed, passed, place))

    def held_out(self, number: int) -> dict[str, Chunk]:
        return self._read(self._held_out[number % len(self._held_out)], generator_of(self.seed))

    def _read(self, file: str, generator: torch.Generator) -> dict[str, Chunk]:
        chunks = {}
        try:
            with safe_open(self.folder / Path(file).name, "pt") as shard:
                for name in self.sites:
                    parts = [shard.get_tensor(f"{name}.{key}") for key in PARTS]
                    order = torch.randperm(len(parts[0]), generator=generator)
                    chunks[name] = Chunk(*(part[order] for part in parts))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(f"{file}: this shard is missing or broken; collect the tokens again.") from error
        return chunks
