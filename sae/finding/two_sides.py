"""Directions without an SAE: runs of two sides are watched at several sites, and what differs is made a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.contrast import SIDES, Contrast, Side, TokenCovariance, Way, way_at, whitened
from ..dictionary.sae_set import AnySae, SaeSet
from ..dictionary.statistics import FeatureStatistics
from ..places.moment import Moment, OnProgress, OnStep, steps_of
from ..places.site import Site
from .features import FeatureReader, RankedFeature, cond_parts, tally_tokens


class MeanReader:
    """The mean token of a run at a site: the `see` of an Observer. Only cond rows count.

    With `by_token` token by token, over rows and calls; ValueError where their number changes.
    """

    def __init__(self, site: Site, by_token: bool = False) -> None:
        self.site, self.by_token = site, by_token
        self._sum: Tensor | None = None  # (1 or tokens, d_in)
        self._count = 0

    def __call__(self, x: Tensor, moment: Moment) -> None:
        for rows, _ in cond_parts(x, moment):
            tokens = rows.float().sum(0)
            found = (tokens if self.by_token else tokens.sum(0, keepdim=True)).cpu().double()
            if self._sum is not None and self._sum.shape != found.shape:
                raise ValueError(
                    f"positive: {len(self._sum)} tokens were seen at {self.site}, then {len(found)}, of which there is "
                    "no mean token by token; use prompts of one length, or the mean over all tokens."
                )
            self._sum = found if self._sum is None else self._sum + found
            self._count += rows.shape[0] * (1 if self.by_token else rows.shape[1])

    @property
    def mean(self) -> Tensor:
        """(d_in,), or (tokens, d_in) token by token, float64; ValueError when the model never came to the site."""
        if self._sum is None:
            raise ValueError(f"model: it never came to {self.site}, so nothing was seen there.")
        mean = self._sum / self._count
        return mean if self.by_token else mean[0]


See = Callable[[Tensor, Moment], None]


class Show(Protocol):
    """Makes one run of a side, the same way at each call."""

    def __call__(self, side: Side, run: int, sees: Sequence[See], on_step: OnStep) -> None:
        """Shows each of `sees` the tokens of its site, (batch, tokens, d_in), at every call of the model."""


@dataclass(frozen=True)
class Runs:
    """How many runs each side has. Run i of both sides is a pair where they are `paired`.

    The first `again` of each side (or all that it has) are made a second time, when the directions are known, which
    are made of the others in one `way`.
    """

    positive: int
    negative: int
    paired: bool
    again: int
    way: Way = "auto"

    def of(self, side: Side, second: bool = False) -> int:
        count = self.positive if side == "positive" else self.negative
        return min(count, self.again) if second else count

    @property
    def total(self) -> int:
        return sum(self.of(side, second) for side in SIDES for second in (False, True))


def find_contrasts(show: Show, sites: Sequence[Site], runs: Runs, on_progress: OnProgress) -> list[Contrast]:
    """What differs between the sides at each site; `on_progress` counts the runs of this and of `measure`."""
    means: dict[Side, list[Tensor]] = {side: [] for side in SIDES}  # (sites, d_in) of each run
    ways = [way_at(runs.way, site) for site in sites]
    varied = [TokenCovariance() if way == "whitened" else None for way in ways]
    done = 0
    for side in SIDES:
        for run in range(runs.of(side)):
            readers = [MeanReader(site) for site in sites]
            sees = [_Varied(*pair, side) for pair in zip(readers, varied, strict=True)]
            show(side, run, sees, steps_of(on_progress, done, runs.total))
            means[side].append(torch.stack([reader.mean for reader in readers]))
            done += 1
    positive, negative = (torch.stack(means[side], 1) for side in SIDES)  # (sites, runs, d_in)
    found = [
        Contrast.of(one, other, runs.paired, way) for one, other, way in zip(positive, negative, ways, strict=True)
    ]
    return [_read_past(one, seen) for one, seen in zip(found, varied, strict=True)]


class _Varied:
    """The readers of a run of a side at a site as one: its mean token and, where it is asked for, how tokens vary."""

    def __init__(self, reader: MeanReader, covariance: TokenCovariance | None, side: Side) -> None:
        self.reader, self.covariance, self.side = reader, covariance, side
        self._first_call = True  # those that follow see much the same

    def __call__(self, x: Tensor, moment: Moment) -> None:
        self.reader(x, moment)
        if self.covariance is not None:
            for rows, _ in cond_parts(x, moment):
                self.covariance.add(rows, self.side, self._first_call)
        self._first_call = False


def _read_past(contrast: Contrast, seen: TokenCovariance | None) -> Contrast:
    """The contrast, read with what varies least over the tokens of both sides; as it is where nobody looked."""
    return contrast if seen is None else replace(contrast, reads=whitened(contrast.direction, seen))


def measure(
    show: Show, sites: Sequence[Site], saes: Mapping[Site, SparseAutoencoder], runs: Runs, on_progress: OnProgress
) -> None:
    """Gives each dictionary the statistics of its features, each on its own side; `show` shows all `sites`."""
    done = runs.of("positive") + runs.of("negative")
    readers: dict[Side, dict[Site, FeatureReader]] = {}
    for side in SIDES:
        readers[side] = {site: FeatureReader(sae, site) for site, sae in saes.items()}
        sees = [readers[side].get(site, _unseen) for site in sites]
        for run in range(runs.of(side, second=True)):
            show(side, run, sees, steps_of(on_progress, done, runs.total))
            done += 1
    for site, sae in saes.items():
        found = [readers[side][site].tally.statistics() for side in SIDES]
        sae.statistics = _of_own_sides(found)


def contrast_of_texts(texts: Mapping[Side, Sequence[Tensor]], way: Way = "auto") -> Contrast:
    """What differs between pairs of texts, from the tokens (tokens, d_in) of each in one embedding.

    The number of tokens may differ, for each text counts with its mean. Chance is what pairs differ among each other.
    """
    means = [torch.stack([tokens.double().mean(0).cpu() for tokens in texts[side]]) for side in SIDES]
    way = way_at(way, None)
    seen = TokenCovariance() if way == "whitened" else None
    if seen is not None:
        for side in SIDES:
            for tokens in texts[side]:
                seen.add(tokens, side)
    return _read_past(Contrast.of(means[0], means[1], paired=True, way=way), seen)


def measure_texts(sae: SparseAutoencoder, texts: Mapping[Side, Sequence[Tensor]]) -> None:
    """Gives the dictionary the statistics of its features, each on its own side's tokens."""
    tallies = [tally_tokens(sae, torch.cat(list(texts[side])).float()[None]) for side in SIDES]
    sae.statistics = _of_own_sides([tally.statistics() for tally in tallies])


def _unseen(x: Tensor, moment: Moment) -> None:
    """Of a site where the sides do not differ."""


def _of_own_sides(found: Sequence[FeatureStatistics]) -> FeatureStatistics:
    """The first feature's numbers from the first, the second's from the second."""

    def own(name: str) -> Tensor:
        return torch.stack([getattr(one, name)[feature] for feature, one in enumerate(found)])

    return FeatureStatistics(own("mean"), own("max"), own("density"), min(one.tokens for one in found))


def rows_of(sae: AnySae, side: Side) -> list[RankedFeature]:
    """A side's feature at each place of a dictionary that was made of contrasts and measured."""
    members = [(one.sae, one.first) for one in sae.members] if isinstance(sae, SaeSet) else [(sae, 0)]
    return [_row(one, first, SIDES.index(side)) for one, first in members]


def _row(sae: SparseAutoencoder, first: int, feature: int) -> RankedFeature:
    statistics = sae.statistics
    if statistics is None or statistics.mean is None or statistics.max is None or statistics.density is None:
        raise ValueError(f"sae: nothing was measured of {sae.name}; make the contrast again.")
    where_active, density = float(statistics.mean[feature]), float(statistics.density[feature])
    mean = where_active * density
    return RankedFeature(first + feature, mean, float(statistics.max[feature]), density, where_active, mean)
