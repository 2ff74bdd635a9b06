"""The delta engine against closed formulas with dense codes, for every kind of SAE."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.statistics import FeatureStatistics
from sae.steering.delta import Steering
from sae.steering.edits import Edit, FeatureList
from sae.steering.methods import METHODS
from small_saes import (
    ARCHITECTURES,
    D_IN,
    D_SAE,
    dense_codes,
    dense_decode,
    dense_directions,
    dense_frame,
    small_sae,
    tensors_of,
)

every_kind = pytest.mark.parametrize("kind", ARCHITECTURES)
IDS, STRENGTHS = [3, 17, 28], [0.7, -1.3, 2.0]
EDITS = FeatureList(Edit(k, s) for k, s in zip(IDS, STRENGTHS, strict=True))
S = torch.tensor(STRENGTHS)


@pytest.fixture
def x() -> Tensor:
    return torch.randn((2, 30, D_IN), generator=torch.Generator().manual_seed(5)) * 2 + 0.4


@pytest.fixture
def statistics() -> FeatureStatistics:
    random = torch.Generator().manual_seed(2)
    mean, peak, density = torch.rand((3, D_SAE), generator=random) + 0.1
    return FeatureStatistics(mean, mean + peak, density / 1.1, tokens=1000)


def close(actual: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance)


def directions_at(kind: str, x: Tensor, ids: list[int]) -> Tensor:
    """(..., n, d_in): each direction as it acts at each token."""
    return dense_directions(kind)[ids] * dense_frame(kind, x)[0].unsqueeze(-1)


def along(kind: str, x: Tensor, amounts: Tensor, ids: list[int]) -> Tensor:
    return (amounts.unsqueeze(-1) * directions_at(kind, x, ids)).sum(-2)


@every_kind
def test_add_set_scale_and_boost(kind: str, x: Tensor) -> None:
    sae, f = small_sae(kind), dense_codes(kind, x)[..., IDS]
    assert 0 < (f > 0).float().mean() < 1
    wanted = {
        "add": S.expand(f.shape),
        "set": S - f,
        "scale": (S - 1) * f,
        "boost_if_active": S * (f > 0),
    }
    for method, amounts in wanted.items():
        delta = Steering(sae, EDITS, method, unit="raw").delta(x)
        close(delta, along(kind, x, amounts, IDS))


@every_kind
def test_project_out_removes_the_direction_whatever_the_codes_say(kind: str, x: Tensor) -> None:
    sae = small_sae(kind)
    unit = dense_directions(kind)[17] / dense_directions(kind)[17].norm()
    for s in (1.0, 0.4, -0.5):
        steered = x + Steering(sae, [Edit(17, s)], "project_out").delta(x)
        close(steered @ unit, (1 - s) * (x @ unit))
        close(steered - (steered @ unit).unsqueeze(-1) * unit, x - (x @ unit).unsqueeze(-1) * unit)
    ablated = x + Steering(sae, [Edit(17, 0.0)], "scale").delta(x)
    projected = x + Steering(sae, [Edit(17, 1.0)], "project_out").delta(x)
    silent = dense_codes(kind, x)[..., 17] == 0
    assert silent.any() and torch.equal(ablated[silent], x[silent])  # project_out is not ablation
    assert ((projected - x)[silent].norm(dim=-1) > 1e-3).any()


@every_kind
def test_ablation_takes_out_what_the_feature_put_in(kind: str, x: Tensor) -> None:
    f = dense_codes(kind, x)
    without = f.clone()
    without[..., IDS] = 0
    delta = Steering(small_sae(kind), [Edit(k, 0.0) for k in IDS], "scale").delta(x)
    close(delta, dense_decode(kind, without, x) - dense_decode(kind, f, x), 1e-4)


@every_kind
def test_surgery_replaces_the_activation_by_the_edited_reconstruction(kind: str, x: Tensor) -> None:
    sae, f = small_sae(kind), dense_codes(kind, x)
    edited = f.clone()
    edited[..., IDS] += S
    surgery = Steering(sae, EDITS, "surgery", unit="raw").delta(x)
    close(surgery, dense_decode(kind, edited, x) - x, 1e-4)
    error = x - dense_decode(kind, f, x)
    close(surgery + error, Steering(sae, EDITS, "add", unit="raw").delta(x), 1e-4)


@every_kind
@pytest.mark.parametrize("method", ["add", "set", "scale", "boost_if_active", "project_out"])
def test_edits_add_up(kind: str, method: str, x: Tensor) -> None:
    sae = small_sae(kind)
    together = Steering(sae, EDITS, method, 1.5).delta(x)
    close(together, sum((Steering(sae, [edit], method, 1.5).delta(x) for edit in EDITS), torch.zeros(())), 5e-5)


def test_the_same_feature_twice_adds_up(x: Tensor) -> None:
    sae = small_sae("relu")
    for method in ("add", "boost_if_active", "project_out"):
        twice = Steering(sae, [Edit(3, 0.2), Edit(3, 0.5)], method).delta(x)
        close(twice, Steering(sae, [Edit(3, 0.7)], method).delta(x))


@every_kind
def test_token_norm_is_a_fraction_of_each_tokens_norm(kind: str, x: Tensor) -> None:
    sae, active = small_sae(kind), dense_codes(kind, x)[..., 17] > 0
    for s in (0.25, -0.6):
        delta = Steering(sae, [Edit(17, s)], "add", unit="token_norm").delta(x)
        close(delta.norm(dim=-1) / x.norm(dim=-1), torch.full((2, 30), abs(s)))
        direction = dense_directions(kind)[17]
        close(delta @ direction / direction.norm(), s * x.norm(dim=-1), 1e-4)
        boosted = Steering(sae, [Edit(17, s)], "boost_if_active", unit="token_norm").delta(x)
        close(boosted, delta * active.unsqueeze(-1))
    tiny = Steering(sae, [Edit(17, 0.25)]).delta(x * 1e-3)
    close(tiny.norm(dim=-1) / x.norm(dim=-1) * 1e3, torch.full((2, 30), 0.25))


@every_kind
def test_token_norm_of_empty_and_of_even_tokens_is_finite(kind: str) -> None:
    x = torch.stack([torch.zeros(D_IN), torch.full((D_IN,), 1.5)])
    for method in ("add", "boost_if_active"):
        delta = Steering(small_sae(kind), [Edit(17, 0.25)], method).delta(x)
        assert torch.isfinite(delta).all() and not delta[0].any()
    close(Steering(small_sae(kind), [Edit(17, 0.25)]).delta(x).norm(dim=-1), 0.25 * x.norm(dim=-1))


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_an_empty_direction_does_nothing(kind: str, x: Tensor) -> None:
    tensors = tensors_of(kind)
    tensors["decoder"][17] = 0
    sae = SparseAutoencoder.from_tensors(tensors, ARCHITECTURES[kind])
    for method in ("add", "boost_if_active", "project_out"):
        assert not Steering(sae, [Edit(17, 0.5)], method).delta(x).any()


@every_kind
def test_mean_and_max_are_multiples_of_the_features_own_activation(
    kind: str, x: Tensor, statistics: FeatureStatistics
) -> None:
    sae, f = small_sae(kind, statistics=statistics), dense_codes(kind, x)
    for unit, stored in (("mean", statistics.mean), ("max", statistics.max)):
        amounts = 2 * S * stored[IDS]
        edited = f.clone()
        edited[..., IDS] += amounts
        f_k = f[..., IDS]
        wanted = {"add": amounts.expand(f_k.shape), "boost_if_active": amounts * (f_k > 0), "set": amounts - f_k}
        for method, codes in wanted.items():
            close(Steering(sae, EDITS, method, 2.0, unit).delta(x), along(kind, x, codes, IDS), 5e-5)
        close(Steering(sae, EDITS, "surgery", 2.0, unit).delta(x), dense_decode(kind, edited, x) - x, 1e-4)


def test_what_was_measured_in_the_graph_comes_before_the_file(x: Tensor, statistics: FeatureStatistics) -> None:
    edits = [Edit(3, 1.0, mean=5.0, max=9.0, density=0.5)]
    for sae in (small_sae("relu", statistics=statistics), small_sae("relu")):
        close(Steering(sae, edits, unit="mean").delta(x), (5 * dense_directions("relu")[3]).expand(x.shape))
        close(Steering(sae, edits, unit="max").delta(x), (9 * dense_directions("relu")[3]).expand(x.shape))


def test_set_reads_token_norm_as_raw_and_the_others_have_no_unit(x: Tensor, statistics: FeatureStatistics) -> None:
    sae = small_sae("relu", statistics=statistics)
    assert torch.equal(Steering(sae, EDITS, "set").delta(x), Steering(sae, EDITS, "set", unit="raw").delta(x))
    for method in ("scale", "project_out"):
        deltas = [Steering(sae, EDITS, method, unit=unit).delta(x) for unit in ("token_norm", "raw", "mean", "max")]
        assert all(torch.equal(deltas[0], delta) for delta in deltas[1:])


def swap(kind: str, statistics: FeatureStatistics, strength: float = 1.0) -> Steering:
    edits = [Edit(8, 1.0), Edit(30, 2.0)]
    return Steering(small_sae(kind, statistics=statistics), edits, "swap", strength, replaces=[Edit(3), Edit(17, 5.0)])


@every_kind
def test_swap_has_the_closed_form(kind: str, x: Tensor, statistics: FeatureStatistics) -> None:
    f, over_all = dense_codes(kind, x), statistics.mean * statistics.density
    level = (f[..., 3] + 5 * f[..., 17]) / (over_all[3] + 5 * over_all[17])
    put = level.unsqueeze(-1) * torch.stack([over_all[8], 2 * over_all[30]])
    delta = along(kind, x, put, [8, 30]) - along(kind, x, f[..., [3, 17]] * torch.tensor([1.0, 5.0]), [3, 17])
    close(swap(kind, statistics).delta(x), delta, 1e-4)
    close(swap(kind, statistics, 0.3).delta(x), 0.3 * delta, 1e-4)
    silent = (f[..., 3] == 0) & (f[..., 17] == 0)
    assert silent.any() and not swap(kind, statistics).delta(x)[silent].any()


@every_kind
def test_replace_has_the_closed_form(kind: str, x: Tensor, statistics: FeatureStatistics) -> None:
    f, active, over_all = dense_codes(kind, x), statistics.mean, statistics.mean * statistics.density
    edits, out = [Edit(8, 1.0), Edit(30, 2.0)], [Edit(3), Edit(17, 5.0)]
    replacing = Steering(small_sae(kind, statistics=statistics), edits, "replace", replaces=out)
    height = (f[..., 3] + 5 * f[..., 17]) / (active[3] + 5 * active[17])
    natural = (active[3] + 5 * active[17]) / (over_all[3] + 5 * over_all[17])
    amounts = torch.stack([over_all[8], 2 * over_all[30]]) * natural
    put = height.clamp(min=1).unsqueeze(-1) * amounts
    delta = along(kind, x, put, [8, 30]) - along(kind, x, f[..., [3, 17]] * torch.tensor([1.0, 5.0]), [3, 17])
    there = height >= 0.5
    assert 0 < int(there.sum()) < there.numel()
    close(replacing.delta(x), delta * there.unsqueeze(-1), 1e-4)
    strong = height >= 1  # where it is swap
    assert strong.any()
    close(replacing.delta(x)[strong], swap(kind, statistics).delta(x)[strong], 1e-4)
    none = Steering(small_sae(kind, statistics=statistics), edits, "replace", 0.0, replaces=out)
    assert none.changes_nothing and not replacing.changes_nothing


@every_kind
def test_presence_is_what_fires_over_its_own_mean(kind: str, x: Tensor, statistics: FeatureStatistics) -> None:
    f, over_all = dense_codes(kind, x), statistics.mean * statistics.density
    replaced = (f[..., 3] + 5 * f[..., 17]) / (over_all[3] + 5 * over_all[17])
    for method, expected in [("swap", replaced), ("scale", f[..., IDS].sum(-1) / over_all[IDS].sum())]:
        steering = (
            swap(kind, statistics)
            if method == "swap"
            else Steering(small_sae(kind, statistics=statistics), EDITS, method)
        )
        change = steering.change(x)
        close(change.presence, expected)
        assert torch.equal(change.delta, steering.delta(x)) and change.presence.max() > 0
    assert torch.isnan(Steering(small_sae(kind), EDITS, "boost_if_active").change(x).presence).all()
    measured = [Edit(k, 1.0, mean=2.0, density=0.25) for k in IDS]
    close(Steering(small_sae(kind), measured, "boost_if_active").change(x).presence, f[..., IDS].sum(-1) / 1.5)
    assert all(Steering(small_sae(kind), measured, m).change(x).presence is None for m in ("add", "set", "surgery"))


def test_swap_on_average_is_the_natural_difference(x: Tensor) -> None:
    """Where the replaced feature fires with its mean, it goes and the other comes with its mean over all tokens."""
    f = dense_codes("relu", x)[..., 3]
    replaced = Edit(3, mean=float(f[f > 0].mean()), density=float((f > 0).float().mean()))
    inserted = Edit(8, mean=4.0, density=0.25)
    delta = Steering(small_sae("relu"), [inserted], "swap", replaces=[replaced]).delta(x)
    d = dense_directions("relu")
    close(delta.mean((0, 1)), 4.0 * 0.25 * d[8] - f.mean() * d[3])


def test_zero_strength_changes_nothing_by_definition(statistics: FeatureStatistics) -> None:
    sae = small_sae(statistics=statistics)
    for unit in ("raw", "token_norm", "mean", "max"):
        for method in ("add", "boost_if_active", "project_out"):
            assert Steering(sae, EDITS, method, 0.0, unit).changes_nothing
            assert Steering(sae, [Edit(3, 0.0)], method, unit=unit).changes_nothing
            assert not Steering(sae, EDITS, method, 1.0, unit).changes_nothing
    assert Steering(sae, [Edit(3, 0.5)], "scale", 2.0).changes_nothing
    assert not Steering(sae, [Edit(3, 0.0)], "scale").changes_nothing
    assert not Steering(sae, EDITS, "set", 0.0).changes_nothing
    assert not Steering(sae, EDITS, "surgery", 0.0).changes_nothing
    assert swap("topk", statistics, 0.0).changes_nothing and not swap("topk", statistics).changes_nothing


@pytest.mark.parametrize(
    ("method", "s"), [("add", 0.0), ("boost_if_active", 0.0), ("project_out", 0.0), ("scale", 1.0)]
)
def test_the_delta_of_zero_strength_is_exactly_zero(method: str, s: float, x: Tensor) -> None:
    assert not Steering(small_sae("gated"), [Edit(3, s), Edit(9, s)], method).delta(x).any()


@every_kind
def test_add_and_project_out_read_no_more_than_their_rows(kind: str, x: Tensor) -> None:
    for method in ("add", "project_out"):
        for unit in ("raw", "token_norm"):
            sae = small_sae(kind)
            steering = Steering(sae, EDITS, method, unit=unit)
            steering.delta(x)
            assert steering.reads == frozenset() and sae.weights.materialised == ()


@every_kind
def test_per_feature_encoders_read_single_rows(kind: str, x: Tensor, statistics: FeatureStatistics) -> None:
    for method in ("set", "scale", "boost_if_active", "swap", "replace"):
        sae, out = small_sae(kind, statistics=statistics), [Edit(9)] if METHODS[method].needs_replaces else []
        steering = Steering(sae, EDITS, method, unit="raw", replaces=out)
        steering.delta(x)
        assert sae.weights.materialised == (("encoder",) if ARCHITECTURES[kind].kind == "topk" else ())
        assert steering.reads == {"encoder"}
    surgery = Steering(small_sae(kind), EDITS, "surgery")
    surgery.delta(x)
    assert surgery.reads == set(surgery.sae.weights.materialised) == {"encoder", "decoder"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_delta_is_computed_in_float32(dtype: torch.dtype, x: Tensor, statistics: FeatureStatistics) -> None:
    low = x.to(dtype)
    for method in METHODS:
        out = [Edit(9)] if METHODS[method].needs_replaces else []
        steering = Steering(small_sae("relu", statistics=statistics), EDITS, method, replaces=out)
        assert steering.delta(low).dtype == torch.float32
        assert torch.equal(steering.delta(low), steering.delta(low.float()))


@pytest.mark.parametrize("method", METHODS)
def test_activations_of_another_width(method: str, statistics: FeatureStatistics) -> None:
    replaces = [Edit(9)] if METHODS[method].needs_replaces else []
    steering = Steering(small_sae(statistics=statistics), EDITS, method, replaces=replaces)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sae: my topk was trained on activations of width 12, but this location has"):
        steering.delta(torch.zeros(1, 4, D_IN + 1))


def test_a_list_prints_well() -> None:
    assert str(FeatureList([Edit(3, 0.5)]).plus(Edit(7))) == "feature 3 × 0.5, feature 7 × 1"
    assert str(FeatureList()) == "no features"
