"""The search by effect over a model that is a closed formula, and on Shapes with diffusers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sae.finding.effect import (
    Candidate,
    check_candidates,
    cost_lines,
    counted,
    effects,
    forwards_of,
    rank_by_effect,
    tried_steps,
)
from sae.finding.features import RankedFeature, feature_table
from sae.places.moment import COND, UNCOND, Moment
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.host_calls import Level, Which
from sae.steering.row_by_row import Alone
from small_saes import D_IN, D_SAE, dense_codes, dense_directions, small_sae

TOKENS = 12
FIRST, SECOND = parse_location("transformer_blocks.0", "image"), parse_location("transformer_blocks.1", "image")
WEIGHTS = {"prompt": 1.0, "baseline": 0.4}
CANDIDATES = [3, 7, 8, 17, 28]


def tokens(seed: int) -> Tensor:
    return torch.randn((1, TOKENS, D_IN), generator=torch.Generator().manual_seed(seed)) * 2


class Formula:
    """Two places, one after the other: y = w · (x + Δ at the first), and 3 y + 2 Δ at the second comes out."""

    def __init__(self, most_rows: int) -> None:
        self.most_rows, self.calls = most_rows, []

    def __call__(self, which: Which, level: Level, rows: int, taps: Sequence[Alone] = ()) -> Tensor:
        self.calls.append((which, rows))
        moment = Moment(level.sigma, (COND,), 5, 8, 6)
        x = level.latent.expand(rows, -1, -1)
        for tap in taps:
            tap.ready(rows, moment, x.device)
        first = x
        for tap in [tap for tap in taps if tap.site == FIRST]:
            first = tap(first, moment)
        y = second = WEIGHTS[which] * first
        for tap in [tap for tap in taps if tap.site == SECOND]:
            second = tap(second, moment)
        return 3 * y + 2 * (second - y)


def by_hand(kind: str, x: Tensor, feature: int, factor: float) -> float:
    """Way: 3 · 0.6 x. Taken out: f d, which changes what comes out `factor` times."""
    out = dense_codes(kind, x)[..., feature, None] * dense_directions(kind)[feature]
    way = 1.8 * x
    return float((factor * out * way).sum() / way.square().sum())


@pytest.mark.parametrize("most_rows", [1, 2, 8])
@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_the_effect_is_the_closed_formula(kind: str, most_rows: int) -> None:
    """At both places at once: the prompt's weight is 1, so the codes are the same at both."""
    levels = [Level(0.9, tokens(1)), Level(0.3, tokens(2))]
    sae, other = small_sae(kind), small_sae("relu")
    candidates = [Candidate(sae, FIRST, k) for k in CANDIDATES] + [Candidate(other, SECOND, k) for k in CANDIDATES]
    predict, told = Formula(most_rows), []
    found = effects(predict, levels, candidates, told.append)
    expected = [by_hand(kind, level.latent, k, 3.0) for k in CANDIDATES for level in levels]
    expected += [by_hand("relu", level.latent, k, 2.0) for k in CANDIDATES for level in levels]
    torch.testing.assert_close(found, torch.tensor(expected).view(-1, 2).mean(1), rtol=1e-4, atol=1e-5)
    assert max(rows for _, rows in predict.calls) == most_rows
    assert sum(rows for _, rows in predict.calls) == 2 * (len(candidates) + 2) == told[-1]
    assert told == sorted(told) and len(told) == 2 * (1 + -(-len(candidates) // most_rows))


def test_those_that_move_the_other_way_are_left_out() -> None:
    levels = [Level(0.5, tokens(1))]
    found = [(small_sae("relu"), FIRST, RankedFeature(k, 1.0, 2.0, 0.5, 1.5, 1.0, 0.5, 0.7)) for k in range(D_SAE)]
    scores = [by_hand("relu", levels[0].latent, k, 3.0) for k in range(D_SAE)]
    positive = sorted((score for score in scores if score > 0), reverse=True)
    assert 3 < len(positive) < D_SAE and min(scores) < 0
    ranked = [row for *_, row in rank_by_effect(Formula(4), levels, found, D_SAE)]
    assert [row.effect for row in ranked] == pytest.approx(positive, rel=1e-4)
    assert [row.feature for row in ranked] == sorted(range(D_SAE), key=lambda k: -scores[k])[: len(positive)]
    assert {row.edit().strength for row in ranked} == {0.7} and ranked[0].value == ranked[0].effect
    assert len(rank_by_effect(Formula(4), levels, found, 3)) == 3
    _, head, line, *_ = feature_table(ranked, "x").splitlines()
    assert head.split()[-2:] == ["difference", "effect"] and float(line.split()[-1]) == pytest.approx(
        positive[0], rel=1e-3
    )


def test_equal_predictions_move_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WEIGHTS, "baseline", 1.0)
    assert effects(Formula(8), [Level(0.5, tokens(1))], [Candidate(small_sae("relu"), FIRST, 3)]).tolist() == [0.0]


def test_a_row_is_steered_in_each_part_of_a_batch() -> None:
    x = torch.cat([tokens(1).expand(3, -1, -1), tokens(2).expand(3, -1, -1)])
    sae = small_sae("relu")
    tap = Alone(FIRST, {0: Steering(sae, [Edit(3, 0.0)], "scale"), 2: Steering(sae, [Edit(8)], "add")}, 3)
    kept, moment = x.clone(), Moment(0.5, (COND, UNCOND), 5, 8, 6)
    steered = tap(x, moment)
    assert torch.equal(x, kept) and torch.equal(steered[[1, 4]], x[[1, 4]])
    out = dense_codes("relu", x)[..., 3, None] * dense_directions("relu")[3]
    unit = dense_directions("relu")[8] / dense_directions("relu")[8].norm()
    torch.testing.assert_close(steered[[0, 3]], (x - out)[[0, 3]])
    torch.testing.assert_close(steered[[2, 5]], (x + x.norm(dim=-1, keepdim=True) * unit)[[2, 5]])
    with pytest.raises(ValueError, match=r"model: a part of a batch has 6 rows where 3 were given, so another"):
        tap(x, Moment(0.5, (COND,), 5, 8, 6))


@pytest.mark.parametrize(("steps", "tried"), [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (8, [0, 2, 4, 6])])
def test_the_levels_are_spread_over_the_run(steps: int, tried: list[int]) -> None:
    assert tried_steps(steps) == tried and tried_steps(100) == [0, 25, 50, 75]
    assert forwards_of(30, steps) == len(tried) * 32


def test_the_cost_is_told() -> None:
    assert cost_lines([30], 8, 30) == ["effect: 128 forwards of one picture, as much as 16 pictures of 8 steps."]
    assert cost_lines([10, 20], 1, 10) == ["effect: 34 forwards of one picture, as much as 34 pictures of 1 step."]
    _, fewer = cost_lines([4], 8, 10)
    assert fewer == "4 features were tried, so no more of the 10 asked for can be listed."
    told: list[tuple[float, int]] = []
    counted(lambda done, total, shown: told.append((done, total)), 16, 144)(34)
    assert told == [(50, 144)]


@pytest.mark.parametrize("candidates", [0, D_SAE + 1])
def test_mistakes(candidates: int) -> None:
    saes = [small_sae("relu"), small_sae("topk")]
    check_candidates(2 * D_SAE, saes, True)
    with pytest.raises(ValueError, match=rf"^candidates: {candidates} came, but .* has {D_SAE} features; give 1 to"):
        check_candidates(candidates, saes[:1], True)
    with pytest.raises(ValueError, match=re.escape("connect one, or rank by mean, max or frequency.")):
        check_candidates(4, saes, False)
