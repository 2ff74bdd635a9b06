"""Tally, ranking, table and chart of features against dense computations."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae.dictionary.autoencoder import SparseCodes
from sae.dictionary.statistics import FeatureStatistics, read_statistics, statistics_path, write_statistics
from sae.drawing.charts import BAR, feature_chart
from sae.finding.features import FeatureReader, FeatureTally, RankedFeature, feature_list, feature_table, rank_features
from sae.places.moment import COND, UNCOND, Moment
from sae.places.site import parse_location
from small_saes import ARCHITECTURES, D_IN, D_SAE, dense_codes, small_sae

ROWS, COLUMNS = 4, 3
MOMENT = Moment(0.5, (COND,), 5, 2 * ROWS, 2 * COLUMNS)
SITE = parse_location("transformer_blocks.1", "image")


def tokens(seed: int, batch: int = 2) -> Tensor:
    return torch.randn((batch, ROWS * COLUMNS, D_IN), generator=torch.Generator().manual_seed(seed)) * 2


def read(kind: str, *calls: Tensor, moment: Moment = MOMENT, mask: Tensor | None = None) -> FeatureTally:
    reader = FeatureReader(small_sae(kind), SITE, mask)
    for x in calls:
        reader(x, moment)
    return reader.tally


def assert_tally(tally: FeatureTally, f: Tensor) -> None:
    """f (..., d_sae): the dense codes of every token that should have been counted."""
    f = f.reshape(-1, f.shape[-1])
    active = (f > 0).float()
    assert tally.tokens == len(f) and 0 < active.mean() < 1
    torch.testing.assert_close(tally.mean, f.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tally.max, f.max(0).values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tally.density, active.mean(0))
    torch.testing.assert_close(tally.mean_where_active, f.sum(0) / active.sum(0).clamp(min=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_tally_over_several_calls_is_the_dense_one(kind: str) -> None:
    calls = [tokens(1), tokens(2, 3), tokens(3, 1)]
    tally = read(kind, *calls)
    assert_tally(tally, torch.cat([dense_codes(kind, x).flatten(0, 1) for x in calls]))
    statistics = tally.statistics()
    assert torch.equal(statistics.mean, tally.mean_where_active) and torch.equal(statistics.density, tally.density)
    assert torch.equal(statistics.dead, tally.max == 0) and statistics.tokens == 6 * ROWS * COLUMNS


def test_an_empty_tally_is_zero() -> None:
    tally = FeatureTally(4)
    assert not any(tensor.any() for tensor in (tally.mean, tally.max, tally.density, tally.mean_where_active))
    tally.add(SparseCodes(torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.int64)))
    assert tally.tokens == 3 and rank_features(tally) == []


@pytest.mark.parametrize(
    ("sides", "cond_rows"),
    [((COND, UNCOND), [0, 1]), ((UNCOND, COND), [2, 3]), ((COND, UNCOND, COND, UNCOND), [0, 2]), ((UNCOND,), [])],
)
def test_only_cond_rows_count(sides: tuple[int, ...], cond_rows: list[int]) -> None:
    x = tokens(4, 4)
    tally = read("relu", x, moment=replace(MOMENT, sides=sides))
    if cond_rows:
        assert_tally(tally, dense_codes("relu", x)[cond_rows])
    else:
        assert tally.tokens == 0 and not tally.max.any()


def test_a_mask_keeps_the_tokens_that_it_touches() -> None:
    x = tokens(5, 4)
    mask = torch.zeros(2, 8 * ROWS, 8 * COLUMNS)
    mask[0, :9, :7] = 1  # rows 0 and 1, column 0
    mask[1, -1, -1] = 0.1  # the last token
    f = dense_codes("relu", x).view(4, ROWS, COLUMNS, D_SAE)[2:]  # the second side is cond
    inside = torch.stack([f[0, 0, 0], f[0, 1, 0], f[1, -1, -1]])
    assert_tally(read("relu", x, moment=replace(MOMENT, sides=(UNCOND, COND)), mask=mask), inside)


def test_masks_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=re.escape("mask: it is empty, so there is no token to read")):
        read("relu", tokens(1), mask=torch.zeros(1, 8, 6))
    with pytest.raises(ValueError, match="mask: it is 16×8, but the picture is 48×64 pixels"):
        read("relu", tokens(1), mask=torch.ones(1, 8, 16))
    for site in (parse_location("single_blocks.0"), parse_location("transformer_blocks.0", "text")):
        with pytest.raises(ValueError, match=f"mask: it marks a part of the picture, but the {site.stream} stream"):
            FeatureReader(small_sae(), site, torch.ones(1, 8, 6))


def test_memory_does_not_grow_with_tokens() -> None:
    def held(tally: FeatureTally) -> int:
        assert all(isinstance(value, Tensor | int) for value in vars(tally).values())
        return sum(v.numel() for v in vars(tally).values() if isinstance(v, Tensor))

    few, many = read("topk", tokens(1)), read("topk", *(tokens(seed, 8) for seed in range(20)))
    assert many.tokens == 80 * few.tokens
    assert held(few) == held(many) == 3 * D_SAE


def scores(f: Tensor, by: str) -> Tensor:
    f = f.reshape(-1, f.shape[-1])
    return {"mean": f.mean(0), "max": f.max(0).values, "frequency": (f > 0).float().mean(0)}[by]


@pytest.mark.parametrize("by", ["mean", "max", "frequency"])
@pytest.mark.parametrize("contrast", [False, True])
def test_ranking(by: str, contrast: bool) -> None:
    x, other = tokens(6, 3), tokens(7, 2)
    tally, baseline = read("relu", x), read("relu", other) if contrast else None
    f = dense_codes("relu", x).flatten(0, 1)
    score = scores(f, by)
    order = score - scores(dense_codes("relu", other), by) if contrast else score
    ranked = rank_features(tally, by, 7, baseline)  # type: ignore[arg-type]
    values = torch.tensor([row.score if row.difference is None else row.difference for row in ranked])
    torch.testing.assert_close(values, order.sort(descending=True).values[:7], rtol=1e-5, atol=1e-6)
    for row in ranked:
        codes = f[:, row.feature]
        assert (row.difference is not None) == contrast
        assert order[row.feature] == pytest.approx(row.difference if contrast else row.score, rel=1e-4, abs=1e-6)
        assert row.score == pytest.approx(float(score[row.feature]), rel=1e-5)
        assert row.mean == pytest.approx(float(codes.mean()), rel=1e-5)
        assert row.max == pytest.approx(float(codes.max()), rel=1e-5)
        assert row.density == pytest.approx(float((codes > 0).float().mean()), rel=1e-5)
        assert row.mean_where_active == pytest.approx(float(codes[codes > 0].mean()), rel=1e-5)
        edit = row.edit()
        assert (edit.feature, edit.density) == (row.feature, row.density)
        common = float(dense_codes("relu", other)[..., row.feature].mean()) if contrast else 0.0
        assert edit.strength == pytest.approx(max(0.0, 1 - common / float(codes.mean())), abs=1e-5)
        assert (edit.mean, edit.max) == (row.mean_where_active, row.max)
    assert [edit.feature for edit in feature_list(ranked)] == [row.feature for row in ranked]


def tally_of(codes: list[list[float]]) -> FeatureTally:
    values = torch.tensor(codes)
    tally = FeatureTally(values.shape[1])
    tally.add(SparseCodes(values, torch.arange(values.shape[1]).expand(values.shape)))
    return tally


def test_features_that_do_not_fire_are_left_out() -> None:
    tally = tally_of([[0.0, 2.0, 0.0, 1.0], [0.0, 4.0, 0.0, 0.0]])
    assert [row.feature for row in rank_features(tally, count=10)] == [1, 3]
    baseline = tally_of([[0.0, 3.0, 9.0, 0.0]])
    assert [row.feature for row in rank_features(tally, count=10, baseline=baseline)] == [3]
    with pytest.raises(ValueError, match="rank_by: 'median' is not a ranking; use one of mean, max, frequency"):
        rank_features(tally, "median")  # type: ignore[arg-type]


def test_the_table_has_the_numbers() -> None:
    tally = tally_of([[0.0, 2.0, 0.0, 1.25], [0.0, 4.0, 0.0, 0.0]])
    title, head, *lines = feature_table(rank_features(tally), "What fires").splitlines()
    assert title == "What fires" and head.split() == ["feature", "mean", "max", "tokens"]
    assert [line.split() for line in lines] == [["1", "3", "4", "100.0%"], ["3", "0.625", "1.25", "50.0%"]]
    baseline = tally_of([[0.0, 2.5, 0.0, 0.0]])
    _, head, *lines = feature_table(rank_features(tally, baseline=baseline), "x").splitlines()
    assert head.split() == ["feature", "mean", "max", "tokens", "difference"]
    assert [line.split()[-1] for line in lines] == ["+0.625", "+0.5"]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert feature_table([], "Nothing").splitlines()[0] == "Nothing"


def bars(chart: Tensor) -> list[int]:
    """The longest run of bar-coloured pixels in each row of the chart, top to bottom, one entry for each bar."""
    is_bar = ((chart[0] * 255).round().int() == torch.tensor(BAR)).all(-1)
    lengths = is_bar.sum(1).tolist()
    return [now for before, now in zip([0, *lengths[:-1]], lengths, strict=True) if now and not before]


def rows_with(values: list[float], contrast: bool) -> list[RankedFeature]:
    return [
        RankedFeature(k, 1.0, 2.0, 0.25, 1.5, 100.0 - k if contrast else value, value if contrast else None)
        for k, value in enumerate(values)
    ]


@pytest.mark.parametrize("contrast", [False, True])
def test_the_bars_are_as_long_as_their_values(contrast: bool) -> None:
    values = [8.0, 6.0, 5.9, 2.0, 1.0, 0.25]
    chart = feature_chart(rows_with(values, contrast), "Features")
    assert chart.dtype == torch.float32 and chart.ndim == 4
    assert (chart.shape[0], chart.shape[2], chart.shape[3]) == (1, 768, 3)
    assert chart.min() >= 0 and chart.max() == 1
    lengths = bars(chart)
    assert len(lengths) == len(values) and lengths[0] > 300
    for value, length in zip(values, lengths, strict=True):
        assert length == pytest.approx(lengths[0] * value / values[0], abs=2)


@pytest.mark.parametrize("count", [0, 1, 100])
def test_charts_of_any_length(count: int) -> None:
    chart = feature_chart(rows_with([1.0] * count, False), "Features")
    assert len(bars(chart)) == count and chart.shape[1] > 34 * max(count, 1)
    assert (chart < 0.5).any()  # something is written


def test_nothing_is_drawn_beyond_the_edge() -> None:
    chart = feature_chart([RankedFeature(49151, 1e-9, 1.0, 1.0, 1.0, 1.23e-9)], "Features")
    assert bool((chart[0, :, -4:] == 1).all()) and bool((chart[0, :, :4] == 1).all())


def test_statistics_come_back_from_their_file(tmp_path: Path) -> None:
    statistics = read("topk", tokens(1)).statistics()
    path = statistics_path(tmp_path / "model.safetensors")
    assert path.name == "model.stats.safetensors"
    write_statistics(statistics, path)
    again = read_statistics(path)
    assert again.tokens == statistics.tokens
    for name in ("mean", "max", "density"):
        assert torch.equal(getattr(again, name), getattr(statistics, name))


def test_broken_statistics_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.stats.safetensors"
    peak, density = torch.ones(2, 4)
    for mean, message in [
        (torch.ones(5), "must be vectors of one length, but have the shapes"),
        (torch.full((4,), math.nan), "holds NaN or infinite values"),
    ]:
        write_statistics(FeatureStatistics(mean, peak.clone(), density.clone(), 1), path)
        with pytest.raises(ValueError, match=r"x\.stats\.safetensors: .*" + message):
            read_statistics(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"x\.stats\.safetensors: this is a Git LFS pointer"):
        read_statistics(path)
