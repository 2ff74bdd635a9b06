"""The reader says what is in a picture, and says nothing where nothing certain is there."""

from dataclasses import replace

import pytest
import torch

from lab.judge.reader import COLOUR_TOLERANCE, measure_pictures, read_pictures, shape_masks
from sae.demo.shapes import BACKGROUNDS, COLOURS, Prompt, all_prompts, draw, draw_coverage
from sae.demo.shapes_model import encode_pictures, thumbnails_of

PROMPT = Prompt("blue", "square", "left", "big", "white")


def picture_of(prompt: Prompt = PROMPT) -> tuple[torch.Tensor, torch.Tensor]:
    return draw([prompt], torch.Generator().manual_seed(5))


@pytest.mark.parametrize("start", range(0, 720, 240))
def test_every_prompt_is_read_back(start):
    prompts = all_prompts()[start : start + 240]
    pictures, coverage = draw(prompts, torch.Generator().manual_seed(start))
    readings = measure_pictures(pictures)
    assert readings.prompts == prompts
    assert readings.fits.min() > 0.9
    clear = (coverage - 0.5).abs() > 0.2  # pixels that the outline does not cut in halves
    assert (readings.masks == (coverage > 0.5))[clear].float().mean() > 0.9999


def test_blurred_and_noisy_pictures_are_still_read():
    prompts = all_prompts()[::12]
    generator = torch.Generator().manual_seed(1)
    small = (thumbnails_of(encode_pictures(draw(prompts, generator)[0])) + 1) / 2
    blurred = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear")
    noisy = blurred + 0.03 * torch.randn(blurred.shape, generator=generator)
    assert read_pictures(blurred) == prompts
    assert read_pictures(noisy.clamp(0, 1)) == prompts


def test_noise_has_no_attribute():
    generator = torch.Generator().manual_seed(2)
    uniform = torch.rand(4, 3, 128, 128, generator=generator)
    coarse = torch.rand(4, 3, 8, 8, generator=generator).repeat_interleave(16, 2).repeat_interleave(16, 3)
    readings = measure_pictures(torch.cat([uniform, coarse]))
    assert readings.prompts == [Prompt()] * 8
    assert not readings.masks.any()
    assert readings.fits.max() == 0


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_empty_background_has_no_shape(background):
    empty = torch.tensor(BACKGROUNDS[background]).view(1, 3, 1, 1).expand(1, 3, 128, 128)
    assert read_pictures(empty) == [Prompt(background=background)]
    assert shape_masks(empty).sum() == 0


def test_another_background_is_noticed():
    coverage = picture_of()[1]
    blue = torch.tensor(COLOURS["blue"]).view(1, 3, 1, 1)
    for ground, expected in (((0.5, 0.5, 0.5), "grey"), ((1.0, 0.75, 0.75), None), ((0.75, 0.75, 0.75), None)):
        picture = torch.tensor(ground).view(1, 3, 1, 1) * (1 - coverage) + blue * coverage
        assert read_pictures(picture) == [replace(PROMPT, background=expected)]


def test_two_backgrounds_leave_nothing_to_say():
    picture = picture_of()[0]
    picture[..., 64:] = 0.0
    assert read_pictures(picture) == [Prompt()]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_two_coloured_shape_has_no_colour(share):
    red, coverage = picture_of(PROMPT.with_colour("red"))
    blue, _ = picture_of()
    rows = torch.where(coverage[0, 0].amax(dim=1) > 0)[0]
    border = int(rows[0] + share * len(rows))
    mixed = torch.cat([red[:, :, :border], blue[:, :, border:]], dim=2)
    assert read_pictures(mixed) == [replace(PROMPT, colour=None)]


def test_colour_changes_only_near_a_named_colour():
    """From blue to red in a straight line: blue, nothing in between, red; with purple on no part of the way."""
    coverage = picture_of()[1]
    blue, red = torch.tensor(COLOURS["blue"]), torch.tensor(COLOURS["red"])
    for part in torch.linspace(0, 1, 21):
        colour = blue + (red - blue) * part
        nearest = {name: float((colour - torch.tensor(other)).norm()) for name, other in COLOURS.items()}
        best = min(nearest, key=nearest.__getitem__)
        expected = best if nearest[best] < COLOUR_TOLERANCE else None
        picture = 1 - coverage + colour.view(1, 3, 1, 1) * coverage
        assert read_pictures(picture) == [PROMPT.with_colour(expected)]
    assert {"blue", "red"} == {
        read_pictures(1 - coverage + c.view(1, 3, 1, 1) * coverage)[0].colour for c in (blue, red)
    }


def test_grey_shape_on_white_keeps_all_but_its_colour():
    coverage = picture_of()[1]
    assert read_pictures(1 - 0.6 * coverage.expand(-1, 3, -1, -1)) == [replace(PROMPT, colour=None)]


def test_shape_between_two_kinds_is_none():
    """The union of a square and a circle's far half is neither; place and size remain."""
    at, radius = torch.tensor([[0.5, 0.5]]), torch.tensor([0.25])
    circle, triangle = (draw_coverage([shape], at, radius, 128) for shape in ("circle", "triangle"))
    top, bottom = circle[:, :, :64], triangle[:, :, 64:]
    coverage = torch.cat([top, bottom], dim=2)
    reading = read_pictures(1 - coverage.expand(-1, 3, -1, -1) * (1 - torch.tensor(COLOURS["red"]).view(1, 3, 1, 1)))[0]
    assert reading == Prompt("red", None, "center", "big", "white")


def test_two_shapes_have_no_shape_place_or_size():
    coverage = draw_coverage(["circle", "circle"], torch.tensor([[0.3, 0.5], [0.7, 0.5]]), torch.full((2,), 0.15), 128)
    both = coverage.amax(dim=0, keepdim=True)
    reading = read_pictures(1 - both.expand(-1, 3, -1, -1) * (1 - torch.tensor(COLOURS["red"]).view(1, 3, 1, 1)))[0]
    assert reading == Prompt(colour="red", background="white")


def test_places_and_sizes_in_between_are_none():
    red = 1 - torch.tensor(COLOURS["red"]).view(1, 3, 1, 1)
    at = torch.tensor([[0.40, 0.5], [0.5, 0.5], [0.35, 0.5], [0.4, 0.4]])
    coverage = draw_coverage(["circle"] * 4, at, torch.tensor([0.15, 0.19, 0.15, 0.15]), 128)
    readings = read_pictures(1 - coverage.expand(-1, 3, -1, -1) * red)
    expected = [(None, "small"), ("center", None), ("left", "small"), (None, "small")]
    assert [(reading.place, reading.size) for reading in readings] == expected


def test_other_sizes_and_wrong_input():
    pictures, _ = draw([PROMPT], size=256)
    assert read_pictures(pictures) == [PROMPT]
    for shape in ((3, 128, 128), (1, 1, 128, 128), (1, 3, 128, 64), (1, 3, 32, 32)):
        with pytest.raises(ValueError, match=r"pictures: .* but got \("):
            read_pictures(torch.zeros(shape))
