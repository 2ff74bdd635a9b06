"""fp16 near its largest number, and pictures that become NaN: finite where it can be, and told."""

import pytest
import torch

from sae_steering_pack.sae.places.moment import COND, Moment
from sae_steering_pack.sae.steering.record import SteeringRecord
from tiny_flux import Watch, intervention, make_sae, relative_difference, sae_tensors, sample, steer

BLOCK = ("transformer_blocks.0", "image")
NEAR = 60_000.0  # fp16 ends at 65,504
MOMENT = Moment(0.5, (COND,), 6, 8, 8)


def lifted(model, dtype=torch.float16, value=NEAR, column=5):
    """Another node's patch that brings one number of each token of a block near the end of fp16."""
    patched = model.clone()

    def lift(args, extra):
        out = extra["original_block"](args)
        image = out["img"].clone()
        image[..., column] = value
        return {**out, "img": image}

    patched.set_model_patch_replace(lift, "dit", "double_block", 0)
    return patched


@pytest.fixture(scope="module")
def half(load_flux):
    model = load_flux(torch.float16)
    model.set_model_compute_dtype(torch.float16)
    return model


def test_two_strengths_near_the_end_of_fp16_draw_two_pictures_and_it_is_told(half, sae):
    model, reports, watch = lifted(half), [], Watch("double", 1)
    strong = [
        sample(steer(watch.on(model), sae, *BLOCK, strength=strength, report=reports.append))
        for strength in (4.0, 8.0)
    ]  # fmt: skip
    assert all(tokens.isfinite().all() and tokens.any() for tokens in watch.tokens)
    assert all(picture.isfinite().all() for picture in strong) and relative_difference(*strong) > 1e-3
    for report in reports:
        (warning,) = [warning for warning in report.warnings if "held" in warning]
        assert warning.startswith("At 100.0% of the steered tokens Δ led beyond 65504, the largest number of float16")


def test_below_the_end_nothing_is_held(half, sae):
    reports = []
    sample(steer(lifted(half, value=6e3), sae, *BLOCK, strength=0.3, report=reports.append))
    assert reports[0].held is None and reports[0].warnings == []


@pytest.mark.parametrize(
    ("location", "stream", "key"),
    [("transformer_blocks.0.input", "text", "txt"), ("single_transformer_blocks.1.input", "joint", "img")],
)
def test_in_half_precision_a_block_is_given_x_and_delta(half, sae, location, stream, key):
    """Rounded once, from float32; the next run is the same to the bit."""
    plain, given = sample(half), []

    def keep(args, extra):
        given.append(args[key].clone())
        return extra["original_block"](args)

    watched = half.clone()
    watched.set_model_patch_replace(keep, "dit", "single_block" if "single" in location else "double_block",
                                    int(location.split(".")[1]))  # fmt: skip
    sample(watched, steps=1)
    sample(steer(watched, sae, location, stream, strength=2.0, unit="raw"), steps=1)
    before, after = given
    wanted = (before.float() + 2 * sae_tensors()["decoder"][3]).half()
    assert after.dtype == torch.float16 and torch.equal(after, wanted)
    assert torch.equal(sample(steer(half, sae, location, stream, strength=0.0)), plain)
    assert torch.equal(sample(half), plain)


def added(x, strength, method="add", unit="raw"):
    """What an intervention makes of tokens, and its summary."""
    record = SteeringRecord()
    active = intervention(make_sae(), *BLOCK, method=method, strength=strength, unit=unit).begin(record)
    return active(x, MOMENT), record.summary()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_only_the_numbers_beyond_the_end_are_held(dtype):
    """By the closed formula: x + s d, cut to the numbers of the dtype."""
    x = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(4)).to(dtype)
    largest = torch.finfo(dtype).max
    x[:, :4, :9] = 0.999 * largest
    strength = 0.5 * largest
    steered, summary = added(x, strength)
    wanted = x.double() + strength * sae_tensors()["decoder"][3].double()
    within = wanted.abs() < largest
    assert steered.isfinite().all() and not within.all()
    assert torch.equal(steered[~within].double().abs(), torch.full_like(wanted[~within], largest))
    assert torch.allclose(steered[within].double(), wanted[within], rtol=0.01, atol=0.01 * largest)
    if dtype == torch.float16:  # of numbers beyond 1e19 even a float32 has no norm
        assert summary.held.share == pytest.approx((~within).any(-1).double().mean().item())
        assert summary.held.dtype == "float16" and summary.held.largest == largest


def test_infinite_numbers_that_came_stay_and_are_told():
    """What was broken before is not made to look whole."""
    x = torch.randn(1, 16, 128, dtype=torch.float16)
    x[0, 3, 7], x[0, 4, 8] = torch.inf, torch.nan
    steered, summary = added(x, 2.0)
    assert steered[0, 3, 7] == torch.inf and steered[0, 4, 8].isnan() and summary.held is None
    (warning,) = summary.warnings
    assert warning.startswith("The activations were NaN or infinite at transformer_blocks.0 (image) in 1 step, which")
    assert summary.steps == 1 and summary.curve == () and summary.mean_ratio == 0


@pytest.mark.parametrize("method", ["add", "set", "scale", "project_out", "surgery"])
def test_a_picture_of_nan_is_told(model, sae, method):
    """NaN fails every comparison: the report has none of it, and two sentences."""
    broken, reports = lifted(model, value=torch.nan), []
    picture = sample(steer(broken, sae, *BLOCK, method=method, strength=0.3, unit="raw", report=reports.append))
    assert picture.isnan().any()
    (report,) = reports
    numbers = [report.mean_ratio, report.max_ratio, report.kept, *(number for step in report.curve for number in step)]
    assert report.steps == 2 and all(map(torch.isfinite, map(torch.tensor, numbers)))
    told = [warning.split(",")[0] for warning in report.warnings if "NaN" in warning]
    assert told == [
        "The activations were NaN or infinite at transformer_blocks.0 (image) in 2 steps", "The picture came out as NaN"
    ]  # fmt: skip


def test_a_picture_that_breaks_behind_the_steered_place_is_told(model, sae):
    broken, reports = model.clone(), []
    broken.set_model_patch_replace(
        lambda args, extra: {**args, "img": args["img"] * torch.nan}, "dit", "single_block", 2
    )
    sample(steer(broken, sae, *BLOCK, strength=0.3, report=reports.append), steps=1)
    assert [warning.split(",")[0] for warning in reports[0].warnings] == ["The picture came out as NaN"]


def test_a_delta_that_is_nan_is_told_as_ours():
    """Decoder and strength may be finite, and their sum over a token not: here the activation read is infinite."""
    record = SteeringRecord()
    active = intervention(make_sae(), *BLOCK, method="scale", strength=3.0, unit="raw").begin(record)
    read = torch.full((1, 16, 128), torch.nan)
    active(torch.ones(1, 16, 128), MOMENT, read)
    (warning,) = record.summary().warnings
    assert (
        warning.startswith("Δ was NaN or infinite at transformer_blocks.0 (image) in 1 step") and "strength" in warning
    )
