"""Where tokens come from: calls by number, each the same at every time, so that a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..finding.features import cond_parts
from ..places.moment import Moment
from ..places.site import Site
from ..places.stream_taps import Tap

SHARE, TOKENS = "share of ", "tokens"  # in what is told about a source: how much of it is kept
OUTLIER_NORMS = 10.0  # a token longer than so many median tokens would rule the loss: it is set aside


class Chunk(NamedTuple):
    """Tokens of one site from one call."""

    tokens: Tensor  # (n, d_in), of any floating type
    sigma: Tensor  # (n,) float32: the noise level, NaN where there is none, as for embeddings
    prompt: Tensor  # (n,) int64: the number of the prompt, the picture or the text


class Source(Protocol):
    """Gives tokens without end; what there is a limited number of comes again, in another order."""

    @property
    def sites(self) -> Mapping[str, Site | None]:
        """Names of what it gives, and the places in the model, None for embeddings."""
        ...

    @property
    def about(self) -> Mapping[str, str | int | float]:
        """What decides the tokens, for a checkpoint to tell whether it goes on with the same ones."""
        ...

    def training(self, number: int) -> Mapping[str, Chunk]:
        """Call `number` of 0, 1, 2, …: the same tokens whenever it is asked."""
        ...

    def held_out(self, number: int) -> Mapping[str, Chunk]:
        """The same of tokens that training never gives."""
        ...


See = Callable[[Tensor, Moment], None]


class Model(Protocol):
    """A model as a host runs it."""

    @property
    def about(self) -> Mapping[str, str | int | float]: ...

    def observe(self, site: Site, see: See) -> AbstractContextManager[None]:
        """Shows `see` the tokens (batch, tokens, width) of a site at every call of the model in the block."""
        ...

    def run(self, number: int, seed: int) -> Sequence[int]:
        """Run `number` of a seed, over one step or many; the numbers of the prompts of each row on the cond side."""
        ...

    def outputs(self, taps: Sequence[Tap]) -> Tensor:
        """What it makes, with the taps installed, of some inputs that differ in their prompt only; always the same."""
        ...


class ModelSource:
    """Tokens of several sites from the same runs of a model."""

    def __init__(self, model: Model, sites: Mapping[str, Site], shares: Mapping[str, float], seed: int = 0) -> None:
        """`shares`: of a call's tokens, how many are kept, by the name of the site; the rest makes room for others."""
        check_some(sites)
        bad = next((share for share in shares.values() if not 0 < share <= 1), None)
        if bad is not None:
            raise ValueError(f"share: {bad:g} of a call's tokens cannot be kept; give more than 0, up to 1.")
        self.model = model
        self.sites: dict[str, Site] = dict(sites)
        self.shares = shares
        self.seed = seed

    @property
    def about(self) -> dict[str, str | int | float]:
        kept = {SHARE + name: self.shares.get(name, 1.0) for name in self.sites}
        return {**self.model.about, "seed": self.seed, **kept}

    def training(self, number: int) -> dict[str, Chunk]:
        return self._call(number, 2 * self.seed)

    def held_out(self, number: int) -> dict[str, Chunk]:
        return self._call(number, 2 * self.seed + 1)

    @torch.no_grad()
    def _call(self, number: int, seed: int) -> dict[str, Chunk]:
        seen = {name: _Seen(self.shares.get(name, 1.0), generator_of(seed, number)) for name in self.sites}
        with ExitStack() as stack:
            for name, site in self.sites.items():
                stack.enter_context(self.model.observe(site, seen[name]))
            prompts = torch.tensor(self.model.run(number, seed), dtype=torch.int64)
        return {name: one.chunk(prompts) for name, one in seen.items()}


def check_some(sites: Collection[str]) -> None:
    """ValueError where there are none."""
    if not sites:
        raise ValueError("sites: there is none to collect tokens at; give one or more.")


def check_one_block(sites: Iterable[Site]) -> None:
    """ValueError for a site of several blocks: their tokens are not one SAE's."""
    several = next((site for site in sites if len(site.blocks) > 1), None)
    if several is not None:
        raise ValueError(
            f"location: one SAE is trained at one block, but {several.location} names {len(several.blocks)}; give one."
        )


class _Seen:
    """Takes a random part of each call's tokens on the prompt's side."""

    def __init__(self, share: float, generator: torch.Generator) -> None:
        self.share, self.generator = share, generator
        self.parts: list[tuple[Tensor, float, Tensor]] = []  # tokens, noise level, row of the batch

    def __call__(self, x: Tensor, moment: Moment) -> None:
        rows = torch.cat([part for part, _ in cond_parts(x, moment)])
        flat = rows.flatten(0, 1)
        count = max(1, round(len(flat) * self.share))
        chosen = torch.randperm(len(flat), generator=self.generator)[:count]
        # a copy: hosts write into their tensors
        kept = flat[chosen.to(flat.device)].detach().clone().cpu()
        self.parts.append((kept, moment.sigma, chosen // rows.shape[1]))

    def chunk(self, prompts: Tensor) -> Chunk:
        if not self.parts:
            raise ValueError("sites: the model ran and never came to one of them; choose a place that it computes.")
        tokens, sigmas, rows = zip(*self.parts, strict=True)
        levels = [torch.full((len(part),), sigma) for part, sigma in zip(tokens, sigmas, strict=True)]
        return Chunk(torch.cat(tokens), torch.cat(levels), prompts[torch.cat(rows)])


def generator_of(*numbers: int) -> torch.Generator:
    """Its own row of random numbers for each (seed, call)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(mixed)


def sift(chunk: Chunk, name: str) -> tuple[Chunk, int]:
    """The tokens that are no outliers, and how many were; ValueError where some are not finite."""
    norms = chunk.tokens.float().norm(dim=1)
    if not bool(torch.isfinite(norms).all()):
        count = int((~torch.isfinite(norms)).sum())
        raise ValueError(
            f"activations: {count} of {len(norms)} tokens at {name} are not finite; use float32 or bfloat16."
        )
    kept = norms <= OUTLIER_NORMS * norms.median() if len(norms) else norms > 0
    return Chunk(*(part[kept] for part in chunk)), int((~kept).sum())


class RememberedSource:
    """The first calls of another source, until every site has `tokens`; then these from the beginning, without end."""

    def __init__(self, source: Source, tokens: int, dtype: torch.dtype = torch.bfloat16) -> None:
        if tokens < 1:
            raise ValueError(f"tokens: {tokens} cannot be trained on; give 1 or more.")
        self.source, self.tokens, self.dtype = source, tokens, dtype
        self.sites = source.sites
        self._kept: list[dict[str, Chunk]] = []
        self._counts = dict.fromkeys(source.sites, 0)

    @property
    def about(self) -> dict[str, str | int | float]:
        return {**self.source.about, TOKENS: self.tokens}

    @property
    def full(self) -> bool:
        return all(count >= self.tokens for count in self._counts.values())

    def training(self, number: int) -> Mapping[str, Chunk]:
        while not self.full and number >= len(self._kept):
            self._remember(self.source.training(len(self._kept)))
        return self._kept[number % len(self._kept)]

    def held_out(self, number: int) -> Mapping[str, Chunk]:
        return self.source.held_out(number)

    def _remember(self, chunks: Mapping[str, Chunk]) -> None:
        """Of each site no more than it needs, and room for no more."""
        kept = {}
        for name, chunk in chunks.items():
            missing = self.tokens - self._counts[name]
            first = Chunk(*(part[:missing].clone() for part in chunk))
            self._counts[name] += len(first.tokens)
            kept[name] = first._replace(tokens=first.tokens.to(self.dtype))
        self._kept.append(kept)
