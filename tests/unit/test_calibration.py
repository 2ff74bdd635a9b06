"""A feature's range: found where a closed formula puts it, and what 1 in the unit calibrated means."""

import pytest
import torch

from sae.steering.calibration import CLEAR, HALVINGS, MOST_READINGS, UNRELATED, VISIBLE, Reading, calibrate, compare
from sae.steering.delta import Steering
from sae.steering.edits import Calibration, Edit
from sae.steering.recipe import NeededSae, Recipe, read_recipe, write_recipe
from sae.steering.summary import LARGE_DELTA
from small_saes import small_sae

PRINT = "ab" * 32
RANGE = Calibration("add", 0.05, 0.2, 0.4)


def straight(change: float, ratio: float, outside: float = 0.0):
    """What a strength does where everything grows in proportion to it."""
    tried = []

    def measure(strength: float) -> Reading:
        tried.append(strength)
        return Reading(change * strength, outside * strength, ratio * strength)

    measure.tried = tried
    return measure


@pytest.mark.parametrize(
    ("measure", "end"),
    [
        (straight(1.0, 0.1), UNRELATED),
        (straight(0.5, 1.0), LARGE_DELTA),
        (straight(0.3, 0.2, 0.25), 0.4),
        (straight(16.0, 1.0), UNRELATED / 16),
    ],
    ids=["too unlike", "Δ too large", "out of range", "reached at once"],
)
def test_the_range_is_where_the_formula_puts_it(measure, end: float) -> None:
    found = calibrate("add", measure)
    slope = measure(1.0).change
    step = 2**-HALVINGS  # of the interval that is halved
    assert found.high <= end * (1 + 1e-9) < found.high + 2 * end * step
    wanted = max(CLEAR * found.high, VISIBLE / slope)
    assert found.clear - found.high * step <= wanted * (1 + 1e-9) <= found.clear * (1 + 1e-6)
    assert found.low - found.clear * step <= VISIBLE / slope <= found.low * (1 + 1e-9)
    assert len(measure.tried) <= MOST_READINGS + 1


def by_hand(method, measure):
    """The range by doubling and halving alone, every strength measured."""
    good, bad, reading = 0.0, 0.25 if method == "swap" else 0.05, Reading(0.0, 0.0, 0.0)
    while not (found := measure(bad)).broken:
        good, bad, reading = bad, 2 * bad, found
    for _ in range(HALVINGS):
        middle = (good + bad) / 2
        good, bad, reading = (good, middle, reading) if (f := measure(middle)).broken else (middle, bad, f)

    def end(high, change):
        low = 0.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if measure(middle).change >= change else (middle, high)
        return high

    clear = end(good, max(CLEAR * reading.change, VISIBLE))
    return Calibration(method, end(clear, VISIBLE), clear, good)


@pytest.mark.parametrize("bend", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("slope", [0.3, 0.9, 7.0])
def test_no_strength_is_tried_whose_answer_follows_from_another(bend: float, slope: float) -> None:
    """For any change that grows with the strength the range is that of plain halving."""
    tried = []

    def measure(strength: float) -> Reading:
        tried.append(strength)
        return Reading((slope * strength) ** bend, 0.0, 0.3 * strength)

    expected, plain = by_hand("swap", measure), len(tried)
    tried.clear()
    assert calibrate("swap", measure) == expected
    assert len(tried) == len(set(tried)) < plain + (slope == 7.0)  # which breaks at once, so that little is known


def test_what_changes_nothing_has_no_range() -> None:
    assert calibrate("swap", straight(0.0, 0.0)) is None
    assert calibrate("add", straight(0.01, 1.0)) is None  # Δ is too large before anything is seen


def test_a_prediction_of_nan_counts_as_broken() -> None:
    assert Reading(float("nan"), 0.0, 0.1).broken
    assert not Reading(0.1, 0.0, 0.1).broken


@pytest.mark.parametrize("method", ["set", "scale", "nonsense"])
def test_other_methods(method: str) -> None:
    with pytest.raises(ValueError, match=r"^method: .* cannot be calibrated; use one of add, boost_if_active, swap\.$"):
        calibrate(method, straight(1, 1))


def test_change_is_one_between_unrelated_pictures_and_nothing_between_equal_ones() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 4, 64, 64), 3 * torch.randn(2, 4, 64, 64) + 0.0
    assert compare(one, one, 0.2) == Reading(0.0, 0.0, 0.2)
    assert compare(one, other, 0.2).change == pytest.approx(1.0, abs=0.02)
    assert compare(other, one, 0.2).change == pytest.approx(1.0, abs=0.02)


def test_outside_counts_values_beyond_the_range_and_its_margin() -> None:
    plain = torch.linspace(0, 1, 100).reshape(1, 1, 10, 10)
    steered = plain.clone()
    steered[0, 0, 0, :4] = torch.tensor([1.09, 1.11, -0.09, -0.11])
    assert compare(steered, plain, 0.0).outside == pytest.approx(2 / 100)


def test_one_calibrated_is_the_clear_strength() -> None:
    sae = small_sae("relu")
    x = torch.randn(3, sae.d_in)
    plain = Steering(sae, [Edit(2)], "add", 0.2, "token_norm").delta(x)
    calibrated = Steering(sae, [Edit(2, 1.0, calibration=RANGE)], "add", 1.0, "calibrated").delta(x)
    assert torch.allclose(calibrated, plain, atol=1e-6)


def test_swap_calibrated_is_swap_at_the_clear_strength() -> None:
    sae = small_sae("relu")
    x = torch.randn(40, sae.d_in, generator=torch.Generator().manual_seed(6))
    known = {"mean": 1.5, "max": 3.0, "density": 0.5}
    out = [Edit(4, 0.7, **known)]
    plain = Steering(sae, [Edit(2, **known)], "swap", 0.8, replaces=out).delta(x)
    range_ = Calibration("swap", 0.1, 0.8, 2.0)
    edit = Edit(2, **known, unit="calibrated", calibration=range_)
    assert torch.allclose(Steering(sae, [edit], "swap", 1.0, replaces=out).delta(x), plain, atol=1e-6)
    assert plain.abs().max() > 0.01


def test_edits_keep_their_own_units_beside_those_of_the_node() -> None:
    sae = small_sae("relu")
    x = torch.randn(3, sae.d_in)
    edits = [Edit(1, 0.5), Edit(2, 0.3, unit="raw"), Edit(3, 2.0, max=1.5, unit="max"), Edit(4, 1.0, calibration=RANGE)]
    mixed = Steering(sae, [*edits[:3], Edit(4, 1.0, unit="calibrated", calibration=RANGE)], "add", 0.5, "token_norm")
    d = sae.direction([1, 2, 3, 4])
    units = d / d.norm(dim=-1, keepdim=True)
    norm = x.norm(dim=-1, keepdim=True)
    expected = 0.5 * (0.5 * norm * units[0] + 0.3 * d[1] + 2.0 * 1.5 * d[2] + 0.2 * norm * units[3])
    assert torch.allclose(mixed.delta(x), expected, atol=1e-5)


def test_calibrated_without_a_calibration_for_the_method() -> None:
    sae = small_sae("relu")
    with pytest.raises(ValueError, match=r"'calibrated' needs a calibration of feature 2 for 'add', but it has none"):
        Steering(sae, [Edit(2)], "add", 1.0, "calibrated")
    with pytest.raises(ValueError, match=r"for 'boost_if_active', but its own is for 'add'; run CalibrateStrength"):
        Steering(sae, [Edit(2, calibration=RANGE)], "boost_if_active", 1.0, "calibrated")


@pytest.mark.parametrize("values", [("add", 0.3, 0.2, 0.4), ("add", 0, 0, 0), ("add", 0, float("nan"), 1)])
def test_impossible_calibrations(values) -> None:
    with pytest.raises(ValueError, match=r"^calibration: .* needed"):
        Calibration(*values)


def test_recipes_keep_unit_and_calibration() -> None:
    edit = Edit(5, 1.5, unit="calibrated", calibration=RANGE)
    recipe = Recipe((edit, Edit(6)), NeededSae(PRINT), "transformer_blocks.1", "image")
    assert read_recipe(write_recipe(recipe)) == recipe
