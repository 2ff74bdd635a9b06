"""`add` without a Δ of its own against the plain formula, and what its record reads without one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.places.moment import COND, Moment
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.fast.one_row import CACHED, Push, held_sum, token_norms
from sae.steering.intervention import Intervention
from sae.steering.record import SAMPLE, SteeringRecord
from small_saes import D_IN, small_sae

SITE = parse_location("transformer_blocks.1", "image")
ROWS, COLUMNS = 20, 30
MOMENT = Moment(0.5, (COND,), 0, 2 * ROWS, 2 * COLUMNS)
EDITS = [Edit(7, 0.5), Edit(3, -1.5)]


def tokens(dtype: torch.dtype = torch.float32) -> Tensor:
    return (3 * torch.randn((2, ROWS * COLUMNS, D_IN), generator=torch.Generator().manual_seed(5))).to(dtype)


def former(steering: Steering, x: Tensor) -> Tensor:
    """Δ in float32, written out: s ‖x‖ d̂ or s · scale · d, summed over the edits in float64."""
    total = torch.zeros(x.shape, dtype=torch.float64)
    for edit, direction in zip(steering.edits, steering.sae.direction(steering.features).double(), strict=True):
        if steering.unit == "token_norm":
            total += edit.strength * x.double().norm(dim=-1, keepdim=True) * direction / direction.norm()
        else:
            total += edit.strength * steering.sae.token_scale(x).double() * direction
    return total


@pytest.mark.parametrize("mask", [None, torch.linspace(0, 1, 16 * ROWS).view(1, -1, 1).expand(1, -1, 16 * COLUMNS)])
@pytest.mark.parametrize("kind", ["relu", "layer_norm", "unit decoder"])
@pytest.mark.parametrize("unit", ["raw", "token_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_add_is_the_former_formula(dtype, unit: str, kind: str, mask: Tensor | None, monkeypatch) -> None:
    """Cut into pieces: float32 to its rounding, half precision as their sum rounded once."""
    monkeypatch.setattr("sae.steering.fast.one_row.CACHED", 7 * 2 * D_IN)
    x = tokens(dtype)
    steering, record = Steering(small_sae(kind), EDITS, "add", unit=unit), SteeringRecord()
    steered = Intervention(steering, SITE, mask=mask).begin(record)(x, MOMENT)
    weight = torch.ones(ROWS) if mask is None else mask[0, :, 0].view(ROWS, 16).mean(1)
    delta = former(steering, x) * weight.repeat_interleave(COLUMNS).view(1, -1, 1)
    if dtype == torch.float32:
        torch.testing.assert_close(steered.double(), x.double() + delta, rtol=2e-6, atol=5e-6)
    else:
        wanted = x.double() + delta
        half_a_step = torch.finfo(dtype).eps / 2 * wanted.abs()  # and what float32 loses of ‖x‖ and of the sum
        assert ((steered.double() - wanted).abs() <= 1.001 * half_a_step + 2e-6 * delta.abs() + 1e-7).all()
    summary, inside = record.summary(), weight.repeat_interleave(COLUMNS) > 0
    ratio = (delta.norm(dim=-1) / x.double().norm(dim=-1))[:, inside]
    assert summary.mean_ratio == pytest.approx(float(ratio.mean()), rel=1e-5)
    assert summary.max_ratio == pytest.approx(float(ratio.max()), rel=1e-5)


def test_one_raw_edit_is_the_sum_in_float32_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, steering = tokens(dtype), Steering(small_sae("relu"), EDITS[:1], "add", unit="raw")
        steered = Intervention(steering, SITE).begin(SteeringRecord())(x, MOMENT)
        assert torch.equal(steered, (x.float() + 0.5 * steering.sae.direction([7])).to(dtype))


@pytest.mark.parametrize("on_cpu", [True, False])
def test_float64_keeps_its_digits(on_cpu: bool, monkeypatch) -> None:
    monkeypatch.setattr("sae.steering.fast.one_row._on_cpu", lambda x: on_cpu)
    x, steering = tokens().double() + 1e-12, Steering(small_sae("relu"), EDITS[:1], "add", unit="raw")
    torch.testing.assert_close(token_norms(x).double(), x.norm(dim=-1), rtol=2e-6, atol=0)
    steered = Intervention(steering, SITE).begin(SteeringRecord())(x, MOMENT)
    assert torch.equal(steered, x + 0.5 * steering.sae.direction([7]))


def test_gradients_pass_through() -> None:
    """As where a pipeline of diffusers is trained through."""
    x = tokens().requires_grad_()
    steering = Steering(small_sae("relu"), EDITS[:1], "add", unit="raw")
    Intervention(steering, SITE).begin(SteeringRecord())(x, MOMENT).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_a_mix_of_units_goes_the_general_way() -> None:
    x, mixed = tokens(), Steering(small_sae("relu"), [Edit(7, 0.5), Edit(3, -1.5, unit="raw")], "add")
    assert mixed.push(x) is None
    parts = (Steering(small_sae("relu"), [Edit(7, 0.5)]), Steering(small_sae("relu"), [Edit(3, -1.5)], unit="raw"))
    steered = Intervention(mixed, SITE).begin(SteeringRecord())(x, MOMENT)
    torch.testing.assert_close(
        steered.double(), x.double() + sum(former(part, x) for part in parts), rtol=2e-6, atol=5e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_safe_row_takes_no_finite_number_beyond_the_largest(dtype) -> None:
    """The longest row that counts as safe, at tokens whose norm float32 cannot hold."""
    largest = torch.finfo(dtype).max
    x = torch.full((1, 4, D_IN), largest, dtype=dtype)
    row = torch.full((D_IN,), 2.0**38)
    pushed = Push(None, row, row.norm(), safe=True).added(x)
    assert pushed.held is None and torch.equal(pushed.steered, x)


def test_held_sum_leaves_sums_below_the_end_as_they_are() -> None:
    x, delta = tokens(torch.float16), tokens() * 0.1
    steered, held = held_sum(x, delta)
    assert torch.equal(steered, (x.float() + delta).half()) and not held.any()
    x[0, 5, 3] = 65504
    delta[0, 5, 3] = 100
    steered, held = held_sum(x, delta)
    assert steered[0, 5, 3] == 65504 and held.nonzero().tolist() == [[0, 5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norms_in_pieces(dtype) -> None:
    x = torch.randn(2, 2 * CACHED // 3072, 3072).to(dtype)
    torch.testing.assert_close(token_norms(x).double(), x.double().norm(dim=-1), rtol=2e-6, atol=0)


def test_the_loss_by_rounding_is_read_inside_a_small_region() -> None:
    """Fewer tokens than the sample, between many that are left alone."""
    mask = torch.zeros(1, 16 * ROWS, 16 * COLUMNS)
    mask[:, 64:96, 48:80] = 1
    for strength, kept in ((1e-5, 0.1), (0.2, 0.999)):
        record = SteeringRecord()
        steering = Steering(small_sae("relu"), [Edit(7, strength)])
        Intervention(steering, SITE, mask=mask).begin(record)(tokens(torch.bfloat16), MOMENT)
        assert ROWS * COLUMNS > SAMPLE
        summary = record.summary()
        assert summary.kept < kept if strength < 1e-3 else summary.kept > kept


@pytest.mark.parametrize("unit", ["raw", "token_norm"])
@pytest.mark.parametrize("method", ["add", "project_out"])
def test_what_a_token_outside_the_mask_has_is_in_no_number(method: str, unit: str) -> None:
    mask = torch.zeros(1, 16 * ROWS, 16 * COLUMNS)
    mask[:, 64:96, 48:80] = 1
    summaries = []
    for outside in (1.0, torch.nan):
        x, record = tokens(torch.bfloat16), SteeringRecord()
        x[:, ROWS * COLUMNS // 2 :] = outside  # so many that some are in the sample
        steering = Steering(small_sae("relu"), EDITS[:1], method, unit=unit)
        Intervention(steering, SITE, mask=mask).begin(record)(x, MOMENT)
        summaries.append(record.summary())
    plain, beside_nan = summaries
    assert plain.kept > 0.9 and beside_nan == plain


def test_notes_of_several_places_need_no_memory_of_their_own(monkeypatch) -> None:
    """Of a model's call each place reserves its own, before any of them is noted."""
    sites, record = ("transformer_blocks.0-18", "single_transformer_blocks.0-37"), SteeringRecord()
    steering = Steering(small_sae("relu"), EDITS)
    active = [Intervention(steering, parse_location(site, "image")).begin(record) for site in sites]
    for _ in range(9):
        for tap in active:
            tap.ready(2, MOMENT, torch.device("cpu"))
        with monkeypatch.context() as patch:
            patch.setattr("sae.steering.record.UNTOLD", None)  # of which rows are made
            for tap in active:
                for _ in tap.site.blocks:
                    tap(tokens(), MOMENT)
    assert len(record._notes) == 9 * (19 + 38)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("unit", ["raw", "token_norm"])
def test_a_gpu_without_kernels_goes_the_same_way(dtype: torch.dtype, unit: str, monkeypatch) -> None:
    """What a GPU computes with torch's own operations, here on the CPU: the same sum, and x stays as it is."""
    x, steering = tokens(dtype), Steering(small_sae("relu"), EDITS, "add", unit=unit)
    expected, kept = Intervention(steering, SITE).begin(SteeringRecord())(x, MOMENT), x.clone()
    monkeypatch.setattr("sae.steering.fast.one_row._on_cpu", lambda x: False)
    steered = Intervention(steering, SITE).begin(SteeringRecord())(x, MOMENT)
    assert torch.equal(x, kept)
    assert (steered != expected).float().mean() < 1e-3  # float32 adds a norm up in another order
    torch.testing.assert_close(steered, expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-5)
