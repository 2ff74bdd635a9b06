"""Features by their effect on the model's prediction: what fires is not what acts.

The candidates are the features with the largest difference of means. Each is tried alone, at a few noise levels of the
prompt's own run: it is taken out where it fires (`scale` 0), and what counts is how far that moves the prediction from
the prompt's to the baseline's. With predictions p of the prompt, b of the baseline and p_k without feature k,

    effect_k = mean over the levels of (p - p_k) · (p - b) / ‖p - b‖²

so 1 is the whole way. That is the same number whether a model predicts noise, velocity or the picture. No gradients.

Why this way: measured on Shapes' text stream, 6 changes of colour × 20 held-out pictures, swap 1 with 1, 2, 4 and 8 of
32 candidates from each side. How far the pictures came on the way to those that the other word draws:

    by mean                                    0.55  0.85  0.94  0.97   (changed 0, 68, 100, 100 %)
    taken out of the prompt                    0.59  0.86  0.97  0.99   (changed 0, 69,  90,  92 %)
    the same, divided by ‖Δ‖                   0.59  0.81  0.97  0.99   (changed 0, 51,  90,  92 %)
    a small add to the baseline, by ‖Δ‖        0.51  0.80  0.94  0.99   (changed 0, 42,  85, 100 %)

A small add meets tokens on which the feature never fires. Dividing by ‖Δ‖ prefers features that hardly fire, while swap
works with a feature at its natural amount.

So on Shapes the effect does not win outright: the pictures come further and keep shape, place, size and background
more often (96 against 92 % with 4, 98 against 96 % with 8), but in one of the six changes, purple to orange, half or
more of them miss the colour. At one place of the picture's stream nothing changes colour by either; there by mean
pushes away from the target (-0.17 at block 1, and a quarter of the pictures are damaged), by effect does nothing
(0.00).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..places.moment import OnProgress, unheard
from ..places.site import Site
from ..steering.delta import Steering
from ..steering.edits import Edit
from ..steering.host_calls import Level, Predict, Which
from ..steering.methods import scale
from ..steering.row_by_row import Alone
from .features import RankedFeature

EFFECT = "effect"  # the choice beside features.RANKINGS
LEVELS = 4  # noise levels at most
CANDIDATES = 32
TRIED: Which = "prompt"  # whose run the latents come from
REFERENCES = 2  # forwards of a level that steer nothing: the prompt's and the baseline's


class Candidate(NamedTuple):
    """A feature to try, and where."""

    sae: SparseAutoencoder
    site: Site
    feature: int


def check_candidates(candidates: int, saes: Sequence[SparseAutoencoder], has_baseline: bool) -> None:
    """Raises ValueError where features of these SAEs cannot be ranked by effect."""
    if not has_baseline:
        raise ValueError(
            "baseline: 'effect' counts how far a feature moves the picture from the baseline to the prompt, but no "
            "baseline came; connect one, or rank by mean, max or frequency."
        )
    known = sum(sae.d_sae for sae in saes)
    if not 0 < candidates <= known:
        names = ", ".join(dict.fromkeys(sae.name for sae in saes))
        raise ValueError(f"candidates: {candidates} came, but {names} has {known} features; give 1 to {known}.")


def tried_steps(steps: int) -> list[int]:
    """The steps, counted from 0, before which a run of so many is tried: spread over it, the first among them."""
    count = min(LEVELS, steps)
    return [number * steps // count for number in range(count)]


def forwards_of(candidates: int, steps: int) -> int:
    """Forwards of one picture that `effects` makes on the levels of a run of so many steps."""
    return len(tried_steps(steps)) * (candidates + REFERENCES)


def cost_lines(tried: Sequence[int], steps: int, count: int) -> list[str]:
    """What trying candidates costs, so many in each search; and that fewer than the `count` asked for were tried."""
    forwards = sum(forwards_of(candidates, steps) for candidates in tried)
    pictures = f"{forwards / steps:.3g} pictures of {steps} step{'s' if steps > 1 else ''}"
    lines = [f"effect: {forwards} forwards of one picture, as much as {pictures}."]
    if max(tried) < count:
        lines.append(f"{max(tried)} features were tried, so no more of the {count} asked for can be listed.")
    return lines


def counted(on_progress: OnProgress, before: int, total: int) -> Callable[[int], None]:
    """What to tell of forwards, of which `before` were made and `total` will be."""
    return lambda forwards: on_progress(before + forwards, total, None)


def rank_by_effect(
    predict: Predict, levels: Sequence[Level], found: Sequence[tuple[SparseAutoencoder, Site, RankedFeature]],
    count: int, on_forwards: Callable[[int], None] = unheard,
) -> list[tuple[SparseAutoencoder, Site, RankedFeature]]:  # fmt: skip
    """The candidates with the largest effect, at most `count`; those that do not move towards the prompt are left out.

    `on_forwards` hears how many forwards of one picture are done.
    """
    tried = [Candidate(sae, site, row.feature) for sae, site, row in found]
    scores = effects(predict, levels, tried, on_forwards).tolist()
    scored = [(sae, site, replace(row, effect=score)) for (sae, site, row), score in zip(found, scores, strict=True)]
    return sorted((entry for entry in scored if entry[2].value > 0), key=lambda entry: -entry[2].value)[:count]


def effects(
    predict: Predict,
    levels: Sequence[Level],
    candidates: Sequence[Candidate],
    on_forwards: Callable[[int], None] = unheard,
) -> Tensor:
    """How far the prediction goes from the prompt's back to the baseline's without each candidate, (candidates,)."""
    done, most, found = 0, max(predict.most_rows, 1), []
    for level in levels:
        prompt = predict("prompt", level, 1).float()
        baseline = predict("baseline", level, 1).float()
        done += REFERENCES
        on_forwards(done)
        way = (prompt - baseline).flatten()
        moved = []
        for part in _parts(candidates, most):
            without = predict(TRIED, level, len(part), _taps(part)).float()
            done += len(part)
            on_forwards(done)
            moved.append(((prompt - without).flatten(1) @ way / way.square().sum().clamp_min(1e-30)).cpu())
        found.append(torch.cat(moved))
    return torch.stack(found).mean(0)


def _parts(candidates: Sequence[Candidate], most: int) -> Iterator[Sequence[Candidate]]:
    for start in range(0, len(candidates), most):
        yield candidates[start : start + most]


def _taps(part: Sequence[Candidate]) -> list[Alone]:
    """One tap for each SAE and site, over the rows of its candidates."""
    rows: dict[tuple[int, Site], dict[int, Steering]] = {}
    for row, (sae, site, feature) in enumerate(part):
        rows.setdefault((id(sae), site), {})[row] = Steering(sae, [Edit(feature, 0.0)], scale.METHOD.name)
    return [Alone(site, steerings, len(part)) for (_, site), steerings in rows.items()]
