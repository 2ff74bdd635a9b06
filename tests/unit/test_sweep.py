"""The drawing of a sweep, and its sheet while it grows; pictures are a closed formula of the steering."""

import numpy as np
import pytest
import torch

from sae.drawing.pixels import from_image, to_image
from sae.drawing.sheet import GAP, GREY, HEAD, LARGEST, SIDE, GrowingSheet
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.draw import Drawn
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from sae.steering.sweep import RANDOM_SEED, draw_cells, plan
from small_saes import small_sae

SITE = parse_location("transformer_blocks.1", "image")
EDITS = [Edit(1), Edit(2, 0.5)]
STRENGTHS = [0.1, -0.4]


class Cancelled(BaseException):
    """What a host raises where its user presses Cancel; ComfyUI's is no Exception either."""


def draw(intervention, random_direction, on_step):
    """Two steps, then a flat picture whose channels say what was asked for."""
    on_step(0.5, "half")
    on_step(1.0, "whole")
    edit = None if intervention is None else intervention.steering.edits[0]
    told = [
        0.0 if edit is None else edit.feature / 10,
        0.0 if edit is None else intervention.steering.strength * edit.strength,
        -1.0 if random_direction is None else float(random_direction),
    ]
    return Drawn(torch.tensor(told).view(1, 3, 1, 1).expand(1, 3, 4, 6), 0.0)


def steering(cell):
    return Intervention(Steering(small_sae("relu"), [cell.edit], "add", cell.strength), SITE)


def test_each_row_begins_unsteered_and_ends_with_the_control():
    cells = plan(EDITS, STRENGTHS, True)
    drawn = [(row, picture[0, :, 0, 0].tolist()) for row, picture in draw_cells(draw, cells, steering)]
    plain, control = [0.0, 0.0, -1.0], float(RANDOM_SEED)
    expected = [
        (0, plain), (1, plain),
        (0, [0.1, 0.1, -1.0]), (0, [0.1, -0.4, -1.0]), (0, [0.1, -0.4, control]),
        (1, [0.2, 0.05, -1.0]), (1, [0.2, -0.2, -1.0]), (1, [0.2, -0.2, control]),
    ]  # fmt: skip
    assert [row for row, _ in drawn] == [row for row, _ in expected]
    assert [told for _, told in drawn] == [pytest.approx(told) for _, told in expected]


def test_every_step_is_told_and_the_unsteered_picture_is_drawn_once():
    told = []
    list(draw_cells(draw, plan(EDITS, STRENGTHS, False), steering, lambda *now: told.append(now)))
    assert told == [(half / 2, 5, "whole" if half % 2 == 0 else "half") for half in range(1, 11)]


def test_pictures_come_one_by_one_until_it_is_cancelled():
    def cancel(done, total, shown):
        if done > 2:
            raise Cancelled

    found = []
    with pytest.raises(Cancelled):
        for row, picture in draw_cells(draw, plan(EDITS, STRENGTHS, True), steering, cancel):
            found.append((row, picture))
    assert [row for row, _ in found] == [0, 1, 0]
    assert float(found[2][1][0, 1, 0, 0]) == pytest.approx(0.1)


def inside(sheet, row, column, height, width):
    """A picture of the sheet without its frame, as (3, height - 2, width - 2)."""
    top, left = HEAD + row * (height + GAP), SIDE + column * (width + GAP)
    return from_image(sheet)[top + 1 : top + height - 1, left + 1 : left + width - 1].movedim(-1, 0)


def test_a_growing_sheet_is_grey_where_nothing_came():
    sheet = GrowingSheet(["one", "two"], ["a", "b", "c"])
    assert not sheet.begun
    with pytest.raises(ValueError, match=r"^pictures: none came"):
        sheet.image()
    pictures = torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    for row, picture in zip((0, 1, 0), pictures, strict=True):
        sheet.add(row, picture)
    drawn = sheet.image()
    assert drawn.size == (SIDE + 3 * (12 + GAP) + GAP, HEAD + 2 * (8 + GAP) + GAP)
    for (row, column), picture in zip(((0, 0), (1, 0), (0, 1)), pictures, strict=True):
        rounded = (picture * 255).round()[:, 1:-1, 1:-1] / 255
        assert torch.allclose(inside(drawn, row, column, 8, 12), rounded, atol=1e-6)
    for row, column in ((0, 2), (1, 1), (1, 2)):
        levels = (inside(drawn, row, column, 8, 12) * 255).round().unique().tolist()
        assert levels == [np.rint(np.float32(GREY) * 255)]


def test_large_pictures_are_averaged_and_many_become_smaller():
    sheet = GrowingSheet(["one"], ["a"])
    picture = torch.rand(3, 2 * LARGEST, LARGEST, generator=torch.Generator().manual_seed(1))
    sheet.add(0, picture)
    means = picture.unflatten(1, (LARGEST, 2)).unflatten(3, (LARGEST // 2, 2)).mean((2, 4))
    assert torch.allclose(sheet.rows[0][0], means, atol=1e-6)
    many = GrowingSheet(["row"] * 40, ["column"] * 10)
    assert many.side == 244  # of 400 pictures on 24 million pixels, 60,000 each
    many.add(39, torch.zeros(3, 488, 976))
    assert many.rows[39][0].shape == (3, 122, 244)


def test_pictures_and_tensors_are_turned_into_each_other():
    levels = torch.arange(2 * 3 * 3).view(2, 3, 3)  # rows, columns, channels
    picture = to_image(levels.movedim(-1, 0) / 255)
    assert picture.size == (3, 2) and picture.getpixel((2, 1)) == (15, 16, 17)
    assert torch.equal((from_image(picture) * 255).round().long(), levels)
    assert to_image(torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1)).getpixel((0, 0)) == (0, 128, 255)
