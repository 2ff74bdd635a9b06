"""Where, when and on which side a steering acts, and what the record says; deltas come from the closed formula."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sae.hosts.diffusers import straight_percent_to_sigma, window_of
from sae.places.moment import COND, SIDES, UNCOND, Crop, Moment, Schedule, SigmaWindow
from sae.places.region import check_mask, token_weights
from sae.places.site import parse_location
from sae.places.stream_taps import tap_image, tap_text, tap_tokens
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from sae.steering.record import SteeringRecord
from sae.steering.summary import HARDLY
from small_saes import D_IN, dense_codes, dense_directions, small_sae

TEXT, ROWS, COLUMNS = 5, 3, 4
IMAGE = ROWS * COLUMNS
ALWAYS = SigmaWindow()
MOMENT = Moment(0.6, (COND,), TEXT, 2 * ROWS, 2 * COLUMNS)
IMAGE_SITE = parse_location("transformer_blocks.1", "image")
JOINT_SITE = parse_location("single_transformer_blocks.1", "joint")
DIRECTION = 2.5 * dense_directions("relu")[7]


def tokens(batch: int = 2, count: int = IMAGE) -> Tensor:
    return torch.randn((batch, count, D_IN), generator=torch.Generator().manual_seed(batch * 100 + count)) * 2


def adding(site=IMAGE_SITE, strength=2.5, method="add", **given) -> Intervention:
    return Intervention(Steering(small_sae("relu"), [Edit(7, strength)], method, unit="raw"), site, **given)


def run(intervention: Intervention, x: Tensor, moment: Moment = MOMENT, window: SigmaWindow = ALWAYS):
    record = SteeringRecord()
    return intervention.begin(record, window)(x, moment), record.summary()


@pytest.mark.parametrize("sides", [(COND, UNCOND), (UNCOND, COND), (COND,), (UNCOND,), (COND, COND, UNCOND)])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("batch", [1, 2])
def test_side(side: str, sides: tuple[int, ...], batch: int) -> None:
    x = tokens(batch * len(sides))
    kept = x.clone()
    steered, summary = run(adding(side=side), x, replace(MOMENT, sides=sides))
    factor = {"both": (1, 1), "cond": (1, 0), "uncond": (0, 1), "opposite": (1, -1)}[side]
    for row in range(len(x)):
        expected = x[row] + factor[sides[row // batch]] * DIRECTION
        if factor[sides[row // batch]] == 0:
            assert torch.equal(steered[row], x[row])
        torch.testing.assert_close(steered[row], expected)
    assert torch.equal(x, kept)
    assert summary.steps == int(any(factor[s] for s in sides))


def test_sides_that_do_not_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="sides: 2 came for a batch of 3 rows; give one for each equal part"):
        run(adding(side="cond"), tokens(3), replace(MOMENT, sides=(COND, UNCOND)))


@pytest.mark.parametrize("steps", [4, 7, 10, 20])
@pytest.mark.parametrize("cut", [0.1, 0.25, 0.3, 0.5, 0.6, 0.7, 1.0])
def test_two_windows_that_meet_cover_each_step_once(steps: int, cut: float) -> None:
    sigmas = [float(s) for s in torch.linspace(1, 0, steps + 1)[:-1]]
    first = window_of(Schedule(0, cut), straight_percent_to_sigma)
    second = window_of(Schedule(cut, 1), straight_percent_to_sigma)
    assert all((sigma in first) != (sigma in second) for sigma in sigmas)
    # a step belongs to the window in which it begins, though its sigma is a float32
    assert [sigma in first for sigma in sigmas] == [step / steps < cut - 1e-9 for step in range(steps)]


def test_outside_its_window_nothing_happens() -> None:
    x = tokens()
    window = SigmaWindow(start=0.7, end=0.4)
    for sigma, inside in [(1.0, False), (0.71, False), (0.7, True), (0.5, True), (0.4, False), (0.0, False)]:
        steered, summary = run(adding(), x, replace(MOMENT, sigma=sigma), window)
        assert (steered is not x) == inside == (summary.steps == 1)
    assert all(sigma in window_of(Schedule(), straight_percent_to_sigma) for sigma in (100.0, 1.0, 1e-9, 0.0))
    nothing = window_of(Schedule(0.5, 0.5), straight_percent_to_sigma)
    assert not any(sigma in nothing for sigma in (1.0, 0.5, 0.0))


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (0.6, 0.4, "start_percent: 0.6 lies after end_percent 0.4; the start must come first."),
        (-0.1, 1.0, "start_percent, end_percent: -0.1 and 1 came, but both must lie between 0 and 1."),
        (0.0, 1.1, "start_percent, end_percent: 0 and 1.1 came"),
        (math.nan, 1.0, "start_percent, end_percent: nan and 1 came"),
    ],
)
def test_impossible_schedules(start: float, end: float, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Schedule(start, end)


@pytest.mark.parametrize("method", ["add", "set", "surgery", "boost_if_active", "project_out"])
@pytest.mark.parametrize("site", [IMAGE_SITE, JOINT_SITE], ids=["image", "joint"])
@pytest.mark.parametrize("side", SIDES)
def test_a_mask_of_ones_equals_no_mask_bit_for_bit(method: str, site, side: str) -> None:
    x = tokens(4, IMAGE + (TEXT if site.stream == "joint" else 0)).to(torch.bfloat16)
    moment = replace(MOMENT, sides=(COND, UNCOND))
    plain, _ = run(adding(site, method=method, side=side), x, moment)
    masked, _ = run(adding(site, method=method, side=side, mask=torch.ones(1, 6 * ROWS, 6 * COLUMNS)), x, moment)
    assert torch.equal(plain, masked) and not torch.equal(plain, x)


def cell_means(mask: Tensor, height: int, width: int) -> Tensor:
    """Token weights by counting pixels: each latent cell covers 8×8 of them, each token up to 2×2 cells."""
    rows, columns = math.ceil(height / 2), math.ceil(width / 2)
    means = torch.empty(rows, columns)
    for row in range(rows):
        for column in range(columns):
            means[row, column] = mask[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].mean()
    return means.flatten()


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 9), (5, 8), (6, 3), (1, 1)])
def test_region_weights_are_means_under_the_tokens(height: int, width: int) -> None:
    mask = torch.rand((2, 8 * height, 8 * width), generator=torch.Generator().manual_seed(3))
    weights = token_weights(check_mask(mask), height, width, 2)
    torch.testing.assert_close(weights, torch.stack([cell_means(one, height, width) for one in mask]))
    shared = token_weights(check_mask(mask[0]), height, width, 3)
    assert shared.shape == (3, weights.shape[1]) and torch.equal(shared[2], weights[0])


def test_a_mask_of_another_resolution_marks_the_same_tokens() -> None:
    left = torch.zeros(1, 4, 6)
    left[..., :3] = 1
    wanted = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]).repeat(4)
    for scale in (1, 2, 5, 16, 64):
        fine = left.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        assert torch.equal(token_weights(fine, 8, 12, 1)[0], wanted)


@pytest.mark.parametrize("site", [IMAGE_SITE, JOINT_SITE], ids=["image", "joint"])
def test_the_mask_scales_the_delta_token_by_token(site) -> None:
    height, width = 5, 7  # odd: 3 rows and 4 columns of tokens
    mask = torch.rand((2, 8 * height, 8 * width), generator=torch.Generator().manual_seed(4))
    mask[:, :16] = 0
    text = TEXT if site.stream == "joint" else 0
    x = tokens(4, text + IMAGE)
    moment = Moment(0.6, (UNCOND, COND), TEXT, height, width)
    steered, summary = run(adding(site, mask=mask, side="opposite"), x, moment)
    weights = torch.stack([cell_means(mask[i], height, width) for i in (0, 1, 0, 1)])
    weights = torch.cat([torch.ones(4, text), weights], dim=1) * torch.tensor([-1.0, -1, 1, 1]).view(-1, 1)
    torch.testing.assert_close(steered, x + weights.unsqueeze(-1) * DIRECTION)
    assert torch.equal(steered[:, text : text + COLUMNS], x[:, text : text + COLUMNS])
    ratio = (weights.unsqueeze(-1) * DIRECTION).norm(dim=-1) / x.norm(dim=-1)
    assert summary.mean_ratio == pytest.approx(float(ratio[weights != 0].mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(48, 32), "mask: it is 32×48, but the picture is 64×48 pixels; use a mask with the picture's prop"),
        (torch.ones(3, 48, 64), "mask: it has 3 entries, but the batch has 2 pictures; use one mask or 2."),
    ],
)
def test_masks_that_do_not_fit(mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run(adding(mask=mask), tokens(4), replace(MOMENT, sides=(COND, UNCOND)))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.full((1, 6, 8), math.nan), "mask: it has values outside 0 to 1"),
        (torch.full((1, 6, 8), 1.01), "mask: it has values outside 0 to 1"),
        (torch.full((1, 6, 8), -0.1), "mask: it has values outside 0 to 1"),
        (torch.ones(1, 1, 6, 8), "mask: its shape is (1, 1, 6, 8), but (batch, height, width) is needed"),
        (torch.ones(0, 6, 8), "mask: its shape is (0, 6, 8)"),
    ],
)
def test_broken_masks(mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        adding(mask=mask)


def test_other_mistakes() -> None:
    with pytest.raises(ValueError, match="mask: it marks a part of the picture, but the stream is text"):
        adding(parse_location("transformer_blocks.1", "text"), mask=torch.ones(1, 6, 8))
    with pytest.raises(ValueError, match="apply_to: 'positive' is not a side; use one of both, cond, uncond, opposite"):
        adding(side="positive")


@pytest.mark.parametrize("stream", ["text", "image", "joint"])
@pytest.mark.parametrize("reference", [0, 6])
def test_taps_touch_their_stream_and_no_reference_token(stream: str, reference: int) -> None:
    """Single blocks carry [text; main picture; reference latents], double blocks each stream on its own."""
    x = tokens(2, TEXT + IMAGE + reference)
    start, end = {"text": (0, TEXT), "image": (TEXT, TEXT + IMAGE), "joint": (0, TEXT + IMAGE)}[stream]
    tap = adding(parse_location("single_blocks.1", stream)).begin(SteeringRecord())
    expected = x.clone()
    expected[:, start:end] += DIRECTION
    assert torch.equal(tap_tokens(tap, x, MOMENT), expected)
    if stream == "image":
        assert torch.equal(tap_image(tap, x[:, TEXT:], MOMENT), expected[:, TEXT:])
    if stream == "text":
        assert torch.equal(tap_text(tap, x[:, :TEXT], MOMENT), expected[:, :TEXT])
    idle = tap_tokens(adding(JOINT_SITE, strength=0).begin(SteeringRecord()), x, MOMENT)
    assert idle is x


@pytest.mark.parametrize("side", ["both", "cond"])
def test_an_update_site_reads_output_minus_input(side: str) -> None:
    before, output = tokens(2), 3 * tokens(4)[:2]
    site = parse_location("transformer_blocks.1.update", "image")
    tap = adding(site, 0.0, "scale", side=side).begin(SteeringRecord())
    f = dense_codes("relu", output - before)[..., 7:8]
    assert (f > 0).any()
    expected = output - f * dense_directions("relu")[7]
    if side == "cond":
        expected[1] = output[1]
    steered = tap_image(tap, output, replace(MOMENT, sides=(COND, UNCOND)), before)
    torch.testing.assert_close(steered, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["add", "set", "surgery", "scale"])
@pytest.mark.parametrize("side", ["both", "opposite"])
def test_half_precision_adds_in_float32_and_rounds_once(dtype: torch.dtype, method: str, side: str) -> None:
    x = tokens().to(dtype)
    intervention = adding(method=method, side=side)
    steered, _ = run(intervention, x, replace(MOMENT, sides=(COND, UNCOND)))
    delta = intervention.steering.delta(x.float())
    if side == "opposite":
        delta[1] *= -1
    assert steered.dtype == dtype
    assert torch.equal(steered, (x.float() + delta).to(dtype))


def test_zero_strength_returns_the_very_same_tensor() -> None:
    x = tokens()
    for method, strength in (("add", 0.0), ("boost_if_active", 0.0), ("project_out", 0.0), ("scale", 1.0)):
        steered, summary = run(adding(method=method, strength=strength, mask=torch.ones(1, 6, 8)), x)
        assert steered is x and str(summary) == "No step was steered."


@pytest.mark.parametrize("method", ["add", "project_out"])
def test_a_stream_without_tokens_stays_as_it_is(method: str) -> None:
    x = tokens(count=0)
    steered, summary = run(adding(parse_location("transformer_blocks.1", "text"), method=method), x)
    assert steered is x and summary.steps == 0


def test_the_record_counts_sigmas_and_averages_ratios() -> None:
    record, ratios = SteeringRecord(), []
    tap = adding().begin(record)
    for call, sigma in enumerate((1.0, 1.0, 0.75, 0.5)):  # two calls in the first step, as Heun makes them
        x = tokens(2, IMAGE) * (call + 1)
        tap(x, replace(MOMENT, sigma=sigma))
        ratios.append(DIRECTION.norm() / x.norm(dim=-1))
    summary = record.summary()
    assert summary.steps == 3
    assert summary.mean_ratio == pytest.approx(float(torch.stack(ratios).mean()), rel=1e-5)
    assert summary.max_ratio == pytest.approx(float(torch.stack(ratios).max()), rel=1e-5)
    assert summary.largest_mean == pytest.approx(float(ratios[0].mean()), rel=1e-5)
    assert str(summary).startswith(f"Steered 3 steps; mean ‖Δ‖/‖x‖ {summary.mean_ratio:.3g}, at one token up to ")
    assert record.summary().steps == 0  # read once


def summary_at(fraction: float, dtype: torch.dtype = torch.float32, **given):
    steering = Steering(small_sae("relu"), [Edit(7, fraction)])
    return run(Intervention(steering, IMAGE_SITE, **given), tokens().to(dtype))[1]


def test_a_delta_above_half_of_the_token_norm_is_told() -> None:
    assert summary_at(0.49).warnings == []
    (warning,) = summary_at(0.52).warnings
    assert warning.startswith("Δ reached 0.52 of the token norm; above 0.5 it destroys the activation")


@pytest.mark.parametrize(("method", "which"), [("swap", "replaces"), ("scale", "features")])
@pytest.mark.parametrize(("factor", "told"), [(0.9, True), (1.1, False)])
def test_features_that_hardly_fire_are_told(method: str, which: str, factor: float, told: bool) -> None:
    """Just below and just above a tenth of their own mean, at the tokens inside the mask only."""
    mask = torch.zeros(1, 8 * ROWS, 8 * COLUMNS)
    mask[..., : 8 * COLUMNS // 2] = 1
    x = tokens()
    f = dense_codes("relu", x)[..., 7].view(2, ROWS, COLUMNS)[..., : COLUMNS // 2]
    fires = [Edit(7, mean=float(f.mean()) / (HARDLY * factor), density=1.0)]
    edits, replaces = (fires, []) if method == "scale" else ([Edit(9, mean=1.0, density=1.0)], fires)
    steering = Steering(small_sae("relu"), edits, method, 0.5, replaces=replaces)
    _, summary = run(Intervention(steering, IMAGE_SITE, mask=mask), x)
    assert summary.presence == {which: pytest.approx(HARDLY * factor, rel=1e-4)}
    sentence = f"The features in '{which}' hardly fire here, at 9.0% of their own mean, so there was almost nothing to"
    assert [warning.startswith(sentence) for warning in summary.warnings] == ([True] if told else [])


def test_of_what_nobody_measured_nothing_is_said() -> None:
    _, summary = run(adding(method="scale"), -100 * torch.ones(2, IMAGE, D_IN))
    assert summary.presence == {} and summary.warnings == []


def test_a_delta_that_rounding_eats_is_told() -> None:
    lost = summary_at(1e-5, torch.bfloat16)
    (warning,) = lost.warnings
    assert lost.kept < 0.1
    assert re.match(r"The model's precision kept only \d+% of Δ, the rest was rounded away", warning)
    assert summary_at(1e-5).warnings == summary_at(0.1, torch.bfloat16).warnings == []


def test_a_delta_of_zero_is_no_loss() -> None:
    x = tokens()
    x[dense_codes("relu", x)[..., 7] > 0] = 0  # the feature fires nowhere, or on no token with a norm
    x = x[dense_codes("relu", x)[..., 7] == 0].unsqueeze(0)
    steered, summary = run(adding(method="boost_if_active"), x.to(torch.bfloat16), replace(MOMENT, latent_width=2))
    assert torch.equal(steered, x.to(torch.bfloat16))
    assert (summary.steps, summary.mean_ratio, summary.kept, summary.warnings) == (1, 0.0, 1.0, [])
    nowhere = summary_at(0.3, torch.bfloat16, mask=torch.zeros(1, 6, 8))
    assert (nowhere.mean_ratio, nowhere.kept, nowhere.warnings) == (0.0, 1.0, [])


def test_parts_without_a_place_stay_as_they_are_and_are_told() -> None:
    """Of four parts the second has no place; the third is the last rows of a picture that is twice as high."""
    crops = (Crop(0, 0, 12, 8), None, Crop(6, 0, 12, 8), Crop(3, 0, 12, 8))
    moment = replace(MOMENT, sides=(COND, COND, UNCOND, COND), crops=crops)
    mask = torch.zeros(1, 96, 64)
    mask[:, 48:] = 1
    for site, text in ((IMAGE_SITE, 0), (JOINT_SITE, TEXT)):
        x = tokens(4, text + IMAGE)
        steered, summary = run(adding(site, mask=mask), x, moment)
        moved = ((steered - x) / DIRECTION).mean(-1)
        rows = moved[:, text:].view(4, ROWS, COLUMNS)
        torch.testing.assert_close(rows[0], torch.zeros(ROWS, COLUMNS))
        torch.testing.assert_close(rows[2], torch.ones(ROWS, COLUMNS))
        torch.testing.assert_close(rows[3], torch.tensor([0.0, 0.5, 1.0]).unsqueeze(1).expand(ROWS, COLUMNS))
        assert torch.equal(steered[1], x[1])
        assert summary.missed and summary.warnings[0].startswith("The mask was not used everywhere")
        assert torch.equal(run(adding(site), x, moment)[0], run(adding(site), x, replace(moment, crops=()))[0])
    assert not run(adding(mask=mask, side="uncond"), tokens(4), moment)[1].missed


def test_runs_do_not_share_what_they_cache() -> None:
    intervention = adding(mask=torch.ones(1, 6, 8))
    run(intervention, tokens())
    assert intervention.steering._cache == {}
