"""What `auto` means, as a method and as a unit: an amount that shows, which several features share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.dictionary.statistics import FeatureStatistics
from sae.steering.delta import Steering
from sae.steering.edits import Calibration, Edit, FeatureList
from sae.steering.methods import method_for
from small_saes import D_IN, D_SAE, dense_directions, small_sae

EDITS = FeatureList(Edit(k, s) for k, s in zip([3, 17, 28], [0.7, -1.3, 2.0], strict=True))


@pytest.fixture
def x() -> Tensor:
    return torch.randn((2, 30, D_IN), generator=torch.Generator().manual_seed(5)) * 2 + 0.4


@pytest.fixture
def statistics() -> FeatureStatistics:
    mean, peak, density = torch.rand((3, D_SAE), generator=torch.Generator().manual_seed(2)) + 0.1
    return FeatureStatistics(mean, mean + peak, density / 1.1, tokens=1000)


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=2e-5, atol=2e-5)


def test_auto_pushes_no_farther_together_than_its_largest_alone(x: Tensor) -> None:
    sae, length = small_sae("topk"), x.norm(dim=-1)
    ten = [Edit(k, 1.0 if k != 7 else 1.5) for k in range(10)]
    plain = Steering(sae, ten, "add", 1.0, "token_norm").delta(x).norm(dim=-1)
    assert (plain > 2 * length).all()  # what made ten features wreck a picture
    close(Steering(sae, ten, "add", 1.0, "auto").delta(x).norm(dim=-1), 0.2 * 1.5 * length)
    close(Steering(sae, ten, "add", -0.5, "auto").delta(x), -0.5 * Steering(sae, ten, "add", 1.0, "auto").delta(x))
    units = torch.nn.functional.normalize(dense_directions("topk"), dim=-1)
    wanted = (torch.tensor([edit.strength for edit in ten]).unsqueeze(-1) * units[:10]).sum(0)
    close(Steering(sae, ten, "add", 1.0, "auto").delta(x), 0.3 * length.unsqueeze(-1) * wanted / wanted.norm())


def test_auto_leaves_features_that_cancel_each_other_small(x: Tensor) -> None:
    sae = small_sae("topk")
    against = [Edit(3, 1.0), Edit(3, -0.9)]
    close(Steering(sae, against, "add", 1.0, "auto").delta(x).norm(dim=-1), 0.02 * x.norm(dim=-1))


def test_auto_takes_the_calibration_of_its_own_method(x: Tensor) -> None:
    sae = small_sae("topk")
    edit = Edit(3, 2.0, calibration=Calibration("add", 0.1, 0.35, 0.5))
    for method, amount in (("add", 0.35), ("boost_if_active", 0.2)):
        wanted = Steering(sae, [Edit(3, 2.0 * amount)], method, 1.0, "token_norm").delta(x)
        close(Steering(sae, [edit], method, 1.0, "auto").delta(x), wanted)


def test_auto_shares_only_with_edits_that_bring_no_unit(x: Tensor) -> None:
    sae = small_sae("topk")
    mixed = [Edit(3), Edit(9), Edit(17, 0.5, unit="token_norm")]
    apart = Steering(sae, mixed[:2], "add", 1.0, "auto").delta(x) + Steering(sae, mixed[2:], "add").delta(x)
    close(Steering(sae, mixed, "add", 1.0, "auto").delta(x), apart)


def test_auto_means_the_natural_amount_where_a_method_does_not_push(x: Tensor, statistics: FeatureStatistics) -> None:
    sae = small_sae("topk", statistics=statistics)
    for method, replaces in (("set", ()), ("scale", ()), ("project_out", ()), ("swap", [Edit(5), Edit(9)])):
        auto, plain = (Steering(sae, EDITS, method, 0.7, unit, replaces).delta(x) for unit in ("auto", "token_norm"))
        assert torch.equal(auto, plain) and auto.any()


def test_the_method_auto_swaps_where_there_is_something_to_take_out() -> None:
    assert {method_for("auto", nothing) for nothing in (None, (), FeatureList())} == {"add"}
    assert method_for("auto", [Edit(1)]) == "swap"
    assert method_for("scale", None) == "scale"
