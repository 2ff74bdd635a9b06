"""Finding features of a MODEL: prompts are sampled shortly while SAEs listen at all their places at once.

What the prompts draw can be kept in the galleries of the SAEs that listened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor

from ...dictionary.autoencoder import SparseAutoencoder
from ...dictionary.sae_set import AnySae, Member
from ...drawing.pictures import thumbnail
from ...finding.effect import (
    CANDIDATES,
    EFFECT,
    check_candidates,
    cost_lines,
    counted,
    forwards_of,
    rank_by_effect,
    tried_steps,
)
from ...finding.features import FeatureReader, Peaks, PeakTally, RankedFeature, rank_features
from ...known.gallery import Gallery
from ...known.notebook import Notebooks
from ...places.moment import OnProgress, steps_of
from ...steering.host_calls import Level, Which
from .drawing import Predicting, heard, keeping
from .model import members_in
from .sampling import Sampling, sample
from .steering import observe

Rows = list[list[RankedFeature]]  # of each place, in the numbers of the whole


@dataclass(frozen=True)
class Ranking:
    """By what features are ranked, and how many are wanted at each place."""

    by: str = "mean"
    count: int = 10
    candidates: int = CANDIDATES  # that are tried, by effect

    @property
    def effect(self) -> bool:
        return self.by == EFFECT


@dataclass(frozen=True)
class Run:
    """One prompt that was sampled: what fired at each place, and the picture's latent."""

    conditioning: Any
    readers: Sequence[FeatureReader]
    levels: Sequence[Level]
    latent: Tensor


class Finder:
    """Looks for features of an SAE, or of a set at all its places, which `location` and `stream` may narrow down.

    Raises ValueError for a place that the model lacks, and for an SAE of another model.
    """

    def __init__(
        self, model: Model, sae: AnySae, location: str, stream: str, latent: dict[str, Any], how: Sampling,
        mask: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.model, self.sae, self.latent, self.how, self.mask = model, sae, latent, how, mask
        self.members: Sequence[Member] = members_in(model, sae, location, stream)

    @property
    def places(self) -> str:
        """Where, for people."""
        return str(self.members[0].site) if len(self.members) == 1 else f"{len(self.members)} places"

    def listen(self, conditioning: Any, ranking: Ranking, on_step: Callable[..., None], peaks: bool = False) -> Run:
        """Samples one prompt while every place is read. `peaks` are what a gallery is made of."""
        readers = [FeatureReader(member.sae, member.site, self.mask) for member in self.members]
        observed, levels = self.model, list[Level]()
        for member, reader in zip(self.members, readers, strict=True):
            if peaks:
                reader.peaks = PeakTally(member.sae.d_sae, member.site.stream)
            observed = observe(observed, member.site, reader, member.sae)
        callback = heard(on_step, self.model)
        if ranking.effect:
            callback = keeping(self.model, self.how, tried_steps(self.how.steps), levels, callback)
        return Run(conditioning, readers, levels, sample(observed, conditioning, self.latent, self.how, callback))

    def contrast(self, run: Run, baseline: Run | None, ranking: Ranking) -> Rows:
        """What fires most at each place, or more than for the baseline; ValueError where that is nothing anywhere."""
        by: Any = "mean" if ranking.effect else ranking.by
        count = ranking.candidates if ranking.effect else ranking.count
        found = []
        for place, member in enumerate(self.members):
            reader, other = run.readers[place], baseline.readers[place] if baseline else None
            if reader.mask is not None and any(read and not read.tally.tokens for read in (reader, other)):
                raise ValueError(
                    "mask: no area of the prompt touches it, so there is no token to read; paint inside an area."
                )
            rows = rank_features(reader.tally, by, count, other.tally if other else None)
            found.append([replace(row, feature=member.first + row.feature) for row in rows])
        if not any(found):
            raise ValueError(
                f"sae: no feature of {self.sae.name} fires {'more' if baseline else 'at all'} at {self.places} for "
                "this prompt; check that the SAE belongs to this model and location, or use another baseline."
            )
        return found

    def by_effect(self, run: Run, baseline: Run, found: Rows, count: int, on_forwards: Callable[[int], None]) -> Rows:
        """The best at each place of what `contrast` found, each tried alone."""
        prompts: dict[Which, Any] = {"prompt": run.conditioning, "baseline": baseline.conditioning}
        predict = Predicting(self.model, prompts, self.latent, self.how, run.levels)
        best, done = list[list[RankedFeature]](), 0
        for member, rows in zip(self.members, found, strict=True):
            own = [(member.sae, member.site, replace(row, feature=row.feature - member.first)) for row in rows]
            ranked = (
                rank_by_effect(predict, run.levels, own, count, partial(_shifted, on_forwards, done)) if own else []
            )
            done += forwards_of(len(own), self.how.steps) if own else 0
            best.append([replace(row, feature=member.first + row.feature) for *_, row in ranked])
        return best

    def heat(self, run: Run, found: Rows) -> dict[int, Tensor]:
        """Where on the first picture of a run the features fired, (rows, columns) each."""
        heat: dict[int, Tensor] = {}
        for member, reader, rows in zip(self.members, run.readers, found, strict=True):
            own = reader.heat(row.feature - member.first for row in rows)
            heat |= {member.first + feature: map_ for feature, map_ in own.items()}
        return heat


def _shifted(on_forwards: Callable[[int], None], before: int, forwards: int) -> None:
    on_forwards(before + forwards)


@dataclass(frozen=True)
class Found:
    """What one search found, and what to tell of it."""

    rows: Rows
    lines: Sequence[str]

    @property
    def ranked(self) -> list[RankedFeature]:
        return [row for rows in self.rows for row in rows]


def find(
    finder: Finder, prompts: Sequence[Any], searches: Sequence[tuple[int, int | None]], ranking: Ranking,
    on_progress: OnProgress, tell: Callable[[str], None], peaks: bool = False,
) -> tuple[list[Run], list[Found]]:  # fmt: skip
    """Samples each prompt once, then makes the searches: each a prompt's number, and that of its baseline if any.

    `on_progress` counts forwards of one picture; `tell` hears what trying candidates costs before it begins.
    """
    members, steps = finder.members, finder.how.steps
    if ranking.effect:
        each = all(baseline is not None for _, baseline in searches)
        for member in members:
            check_candidates(ranking.candidates, [member.sae], each)
    contrast, effort = len(prompts) * steps, forwards_of(ranking.candidates, steps) * len(members) * len(searches)
    total, runs = contrast + (effort if ranking.effect else 0), list[Run]()
    for number, conditioning in enumerate(prompts):
        runs.append(finder.listen(conditioning, ranking, steps_of(on_progress, number * steps, total, steps), peaks))
    candidates = [
        finder.contrast(runs[one], None if other is None else runs[other], ranking) for one, other in searches
    ]
    silent = [
        [f"Nothing fires at {member.site}." for member, rows in zip(members, found, strict=True) if not rows]
        for found in candidates
    ]
    if not ranking.effect:
        return runs, [Found(rows, lines) for rows, lines in zip(candidates, silent, strict=True)]
    tried = [len(rows) for found in candidates for rows in found if rows]
    cost = cost_lines(tried, steps, ranking.count)
    tell(cost[0])
    total, done = contrast + sum(forwards_of(count, steps) for count in tried), contrast
    results = []
    paired = [(one, other) for one, other in searches if other is not None]  # all, by check_candidates
    for (one, other), found, lines in zip(paired, candidates, silent, strict=True):
        best = finder.by_effect(runs[one], runs[other], found, ranking.count, counted(on_progress, done, total))
        done += sum(forwards_of(len(rows), steps) for rows in found if rows)
        results.append(Found(best, [*lines, *cost]))
    return runs, results


AT_ONCE = 16  # prompts whose pictures are written together, since each writing writes the whole gallery


class PictureKeeper:
    """Decodes what prompts draw and adds it to the galleries of the SAEs that listened, a few prompts at once.

    It is what `mean_activations` tells of its runs; `close` writes what is left, and is called after Cancel too.
    """

    def __init__(self, vae: Any, notebooks: Notebooks) -> None:
        self.vae, self._notebooks = vae, notebooks
        self._waiting: list[_Drawn] = []
        self._galleries: dict[str, Gallery] = {}  # by owner, as they are written

    def __call__(self, prompt: str, latent: Tensor, readers: Sequence[FeatureReader]) -> None:
        peaks = [(reader.sae, reader.peaks.peaks()) for reader in readers if reader.peaks is not None]
        if any(not len(found.strength) for _, found in peaks):
            return  # every call of the model saw noise, or a part of the picture
        pictures = self.vae.decode(latent)[..., :3].float().cpu()  # (batch, height, width, 3)
        encoded = [thumbnail(picture) for picture in pictures.movedim(-1, 1)]
        self._waiting.append(_Drawn(prompt, encoded, peaks))
        if len(self._waiting) == AT_ONCE:
            self._write()

    def close(self) -> str:
        """A line that tells what there is now."""
        self._write()
        found = list(self._galleries.values())
        if not found:
            return "No picture was kept: a mask hid a part, or all steps saw mostly noise; use no mask, or more steps."
        if len(found) > 1:
            return f"Pictures were added to the galleries of {len(found)} SAEs."
        shown = int((found[0].which >= 0).any(dim=1).sum())
        return f"{len(found[0].pictures)} pictures show {shown} of {found[0].d_sae} features."

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        pictures = [picture for drawn in waiting for picture in drawn.pictures]
        prompts = [drawn.prompt for drawn in waiting for _ in drawn.pictures]
        for number, (sae, _) in enumerate(waiting[0].peaks):
            strength, spot = (
                torch.cat(parts) for parts in zip(*(drawn.peaks[number][1] for drawn in waiting), strict=True)
            )
            gallery = self._notebooks.of(sae).add_pictures(pictures, prompts, strength, spot)
            self._galleries[sae.owner.identity] = gallery


class _Drawn(NamedTuple):
    """The pictures of one prompt, encoded, and where the features of each SAE fire on them."""

    prompt: str
    pictures: list[bytes]
    peaks: list[tuple[SparseAutoencoder, Peaks]]


def keep_run(run: Run, vae: Any, notebooks: Notebooks) -> str:
    """Keeps the pictures of one prompt; a line that tells of it."""
    keeper = PictureKeeper(vae, notebooks)
    keeper("", run.latent, run.readers)
    return keeper.close()
