"""Which features fire, and where most: a tally in bounded memory, its ranking, and the table that people read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder, SparseCodes
from ..dictionary.directions import check_place
from ..dictionary.owner import Owner
from ..dictionary.statistics import FeatureStatistics
from ..places.moment import COND, Moment
from ..places.region import check_mask, moment_weights
from ..places.site import Site, Stream
from ..steering.edits import Edit, FeatureList

RankBy = Literal["mean", "max", "frequency"]
RANKINGS: tuple[RankBy, ...] = get_args(RankBy)


class FeatureTally:
    """Sum, maximum and count of each feature's activation over all tokens seen; memory is 3 · d_sae numbers."""

    def __init__(self, d_sae: int) -> None:
        self.sum = torch.zeros(d_sae, dtype=torch.float64)
        self.max = torch.zeros(d_sae)
        self.count = torch.zeros(d_sae, dtype=torch.int64)
        self.tokens = 0

    def add(self, codes: SparseCodes) -> None:
        """Codes (..., n) as values and indices; features that do not fire are left out or zero."""
        values, indices = codes.values.flatten().cpu(), codes.indices.flatten().cpu()
        self.sum.index_add_(0, indices, values.double())
        self.max.scatter_reduce_(0, indices, values, "amax")
        self.count.index_add_(0, indices, (values > 0).long())
        self.tokens += codes.values.shape[:-1].numel()

    @property
    def mean(self) -> Tensor:
        """Mean activation over all tokens, (d_sae,)."""
        return (self.sum / max(self.tokens, 1)).float()

    @property
    def density(self) -> Tensor:
        """Share of the tokens on which each feature fires, (d_sae,)."""
        return self.count.float() / max(self.tokens, 1)

    @property
    def mean_where_active(self) -> Tensor:
        return (self.sum / self.count.clamp_min(1)).float()

    def score(self, by: RankBy) -> Tensor:
        return {"mean": self.mean, "max": self.max, "frequency": self.density}[by]

    def statistics(self) -> FeatureStatistics:
        return FeatureStatistics(self.mean_where_active, self.max, self.density, self.tokens)


def cond_parts(x: Tensor, moment: Moment) -> Iterator[tuple[Tensor, Moment]]:
    """The parts of a batch that are the prompt's side, each (rows, tokens, d_in) with the moment of these rows."""
    part = moment.rows_of_a_side(x.shape[0])
    for position, side in enumerate(moment.sides):
        if side == COND:
            yield x[position * part : (position + 1) * part], moment.part(position)


class FeatureReader:
    """Tallies an SAE's features at its site, call by call: the `see` of an Observer. Only cond rows count.

    With a mask, only image tokens that it touches count. Parts of the picture count where the whole picture's mask
    touches them; ValueError where the place of a part is not known.
    """

    def __init__(self, sae: SparseAutoencoder, site: Site, mask: Tensor | None = None) -> None:
        if mask is not None and site.stream != "image":
            raise ValueError(
                f"mask: it marks a part of the picture, but the {site.stream} stream is read; use the image stream, "
                "or no mask."
            )
        check_place(sae, site)
        self.sae = sae
        self.mask = None if mask is None else check_mask(mask)
        if self.mask is not None and not self.mask.any():
            raise ValueError("mask: it is empty, so there is no token to read; paint the part of interest.")
        self.tally = FeatureTally(sae.d_sae)
        self.peaks: PeakTally | None = None  # hears what is read of whole pictures, where it is set
        self.site = site
        self._last: tuple[SparseCodes, Moment] | None = None  # of the first picture, in the last call

    def __call__(self, x: Tensor, moment: Moment) -> None:
        for rows, part in cond_parts(x, moment):
            self._read(rows, part)

    def _read(self, x: Tensor, moment: Moment) -> None:
        if self.mask is not None:
            if moment.unplaced:
                raise ValueError(
                    "mask: the model is given parts of the picture whose place is not known, so the mask cannot be "
                    "laid over them; use no mask, or leave out the node that cuts the picture into parts."
                )
            x = x[moment_weights(self.mask, moment, x.shape[0]).to(x.device) > 0]
            if not x.shape[0]:
                return  # a part of the picture that the mask does not touch
        self.hear(self.sae.encode_sparse(x, moment.sigma), moment)

    def hear(self, codes: SparseCodes, moment: Moment) -> None:
        """Codes (rows, tokens, n) of the prompt's side; (tokens, n) of those inside the mask, where there is one."""
        self.tally.add(codes)
        if self.peaks is not None and self.mask is None:
            self.peaks.add(codes, moment)
        if self.mask is None and self.site.stream != "text" and not moment.crops:
            self._last = SparseCodes(codes.values[0].cpu(), codes.indices[0].cpu()), moment

    def heat(self, features: Iterable[int]) -> dict[int, Tensor]:
        """Where each feature fired on the first picture in the last call that saw it whole, (rows, columns).

        Of a video the first frame.

        Empty for a text, with a mask, and where every prompt has an area.
        """
        if self._last is None:
            return {}
        codes, moment = self._last
        grid = moment.grid
        first = moment.text_tokens if self.site.stream == "joint" else 0
        part = slice(first, first + grid[0] * grid[1])  # without the text, and without reference pictures behind
        values, indices = codes.values[part].float(), codes.indices[part]
        return {k: torch.where(indices == k, values, 0).sum(-1).view(grid) for k in features}


class Together:
    """Reads calls for several runs, whose rows stand one behind the other: encoded at once, tallied apart.

    The readers are of one SAE and site, a run each, without a mask.
    """

    def __init__(self, readers: Sequence[FeatureReader]) -> None:
        self.readers = readers

    def __call__(self, x: Tensor, moment: Moment) -> None:
        count = len(self.readers)
        for rows, part in cond_parts(x, moment):
            if len(rows) % count:
                raise ValueError(
                    f"model: a part of a batch has {len(rows)} rows for {count} prompts that run together, so another "
                    "node cuts batches; leave that node out."
                )
            codes = self.readers[0].sae.encode_sparse(rows, part.sigma)
            for reader, *own in zip(self.readers, *(tensor.chunk(count) for tensor in codes), strict=True):
                reader.hear(SparseCodes(*own), part)


@dataclass(frozen=True)
class RankedFeature:
    """One row of the table. `difference` is the score less the baseline's, None without a baseline.

    `effect` is there where features were ranked by it.
    """

    feature: int
    mean: float
    max: float
    density: float
    mean_where_active: float
    score: float
    difference: float | None = None
    specific: float = 1.0  # share of its mean activation that the baseline does not have
    effect: float | None = None

    @property
    def value(self) -> float:
        """What the table is ordered by."""
        return next(value for value in (self.effect, self.difference, self.score) if value is not None)

    def edit(self) -> Edit:
        """With a baseline, a feature counts by what is specific to the prompt."""
        return Edit(self.feature, self.specific, self.mean_where_active, self.max, self.density)


def rank_features(
    tally: FeatureTally, by: RankBy = "mean", count: int = 10, baseline: FeatureTally | None = None
) -> list[RankedFeature]:
    """The features that fire most, or most above the baseline; those that do not (more than it) are left out."""
    if by not in RANKINGS:
        raise ValueError(f"rank_by: {by!r} is not a ranking; use one of {', '.join(RANKINGS)}.")
    score = tally.score(by)
    difference = None if baseline is None else score - baseline.score(by)
    order = score if difference is None else difference
    best = order.topk(min(count, len(order))).indices.tolist()
    common = torch.zeros_like(tally.mean) if baseline is None else baseline.mean
    specific = (1 - common / tally.mean.clamp_min(1e-12)).clamp(0, 1)
    return [_row(tally, k, score, difference, specific) for k in best if order[k] > 0]


def _row(tally: FeatureTally, k: int, score: Tensor, difference: Tensor | None, specific: Tensor) -> RankedFeature:
    return RankedFeature(
        feature=k,
        mean=float(tally.mean[k]),
        max=float(tally.max[k]),
        density=float(tally.density[k]),
        mean_where_active=float(tally.mean_where_active[k]),
        score=float(score[k]),
        difference=None if difference is None else float(difference[k]),
        specific=float(specific[k]),
    )


def feature_list(ranked: Sequence[RankedFeature], owner: Owner | None = None) -> FeatureList:
    return FeatureList((row.edit() for row in ranked), owner=owner)


def feature_table(
    ranked: Sequence[RankedFeature],
    title: str,
    names: Mapping[int, str] | None = None,
    places: Mapping[int, str] | None = None,
) -> str:
    """A text table: index, mean and largest activation, share of tokens; the difference and the effect; names.

    `places` has the place of each feature, where there are several.
    """
    contrast, effect = (any(getattr(row, name) is not None for row in ranked) for name in ("difference", "effect"))
    named = {row.feature: " ".join((names or {}).get(row.feature, "").split()) for row in ranked}
    width = max(map(len, (places or {}).values()), default=0)
    head = f"{'feature':>8} {'mean':>9} {'max':>9} {'tokens':>7}" + (f" {'difference':>11}" if contrast else "")
    head += f" {'effect':>9}" if effect else ""
    head += f"  {'place':<{width}}" if places else ""
    lines = [title, (head + ("  name" if any(named.values()) else "")).rstrip()]
    for row in ranked:
        line = f"{row.feature:>8} {row.mean:>9.4g} {row.max:>9.4g} {row.density:>7.1%}"
        line += f" {row.difference:>+11.4g}" if row.difference is not None else ""
        line += f" {row.effect:>+9.4g}" if row.effect is not None else ""
        line += f"  {places[row.feature]:<{width}}" if places else ""
        lines.append(f"{line}  {named[row.feature]}".rstrip())
    return "\n".join(lines)


def tally_tokens(sae: SparseAutoencoder, x: Tensor) -> FeatureTally:
    """Which features fire on tokens x (batch, tokens, d_in)."""
    tally = FeatureTally(sae.d_sae)
    tally.add(sae.encode_sparse(x))
    return tally


LATEST = 0.75  # of the first call's noise level: at higher ones features fire on noise, not on what the picture shows


class Peaks(NamedTuple):
    """Of each picture and feature."""

    strength: Tensor  # (batch, d_sae): the largest activation, 0 where the feature did not fire
    spot: Tensor  # (batch, d_sae, 2): where, down and across as fractions of the picture; NaN for a text's token


class PeakTally:
    """Keeps the largest activation of each feature, call by call; memory is 3 · batch · d_sae numbers."""

    def __init__(self, d_sae: int, stream: Stream) -> None:
        self.d_sae, self.stream = d_sae, stream
        self._first = math.nan  # the noise level of the first call
        self._strength = torch.zeros(0, d_sae)
        self._token = torch.zeros(0, d_sae, dtype=torch.int64)
        self._grid = (1, 1)

    def add(self, codes: SparseCodes, moment: Moment) -> None:
        """Codes (batch, tokens, n) of one call; one that saw noise or a part of the picture is passed over."""
        if math.isnan(self._first):
            self._first = moment.sigma
        if moment.crops or moment.sigma > LATEST * self._first:
            return
        first = moment.text_tokens if self.stream == "joint" else 0
        self._grid = moment.grid
        last = None if self.stream == "text" else first + self._grid[0] * self._grid[1]
        values, indices = (part[:, first:last].flatten(1).cpu() for part in codes)
        tokens = torch.arange(values.shape[1]) // codes.values.shape[-1]
        found = torch.zeros(len(values), self.d_sae).scatter_reduce_(1, indices, values.float(), "amax")
        token = torch.zeros_like(found, dtype=torch.int64)
        here = (values.float() == found.gather(1, indices)) & (values > 0)
        token.scatter_reduce_(1, indices, torch.where(here, tokens, 0), "amax")
        if len(found) != len(self._strength):
            self._strength, self._token = found, token
            return
        self._token = torch.where(found > self._strength, token, self._token)
        self._strength = torch.maximum(found, self._strength)

    def peaks(self) -> Peaks:
        if self.stream == "text":
            return Peaks(self._strength, torch.full((*self._strength.shape, 2), math.nan))
        rows, columns = self._grid
        down, across = self._token.div(columns, rounding_mode="floor"), self._token % columns
        return Peaks(self._strength, torch.stack([(down + 0.5) / rows, (across + 0.5) / columns], dim=-1))
