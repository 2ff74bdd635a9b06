"""The drawing of a sweep, and its sheet while it grows; pictures are a closed formula of the steering."""

import numpy as np
import pytest
import torch

from sae.dictionary.sae_set import Member, SaeSet, members_at
from sae.drawing.pictures import from_image, to_image
from sae.drawing.sheet import GAP, GREY, HEAD, LARGEST, SIDE, GrowingSheet
from sae.places.site import parse_location
from sae.steering.edits import Edit
from sae.steering.host_calls import Drawn
from sae.steering.set_up import Wanted
from sae.steering.sweep import RANDOM_SEED, draw_rows, parse_strengths, plan, rows_of
from small_saes import small_sae

SITE = parse_location("transformer_blocks.1", "image")
SAE = small_sae("relu")
EDITS = [Edit(1), Edit(2, 0.5)]
STRENGTHS = [0.1, -0.4]
ROWS = rows_of(SAE, [[Member(SAE, 0, SITE)]], Wanted(EDITS, "add"))


class Cancelled(BaseException):
    """What a host raises where its user presses Cancel; ComfyUI's is no Exception either."""


def draw(interventions, random_direction, on_step):
    """Two steps, then a flat picture whose channels say what was asked for."""
    on_step(0.5, "half")
    on_step(1.0, "whole")
    edits = [edit for item in interventions for edit in item.steering.edits]
    told = [
        sum(edit.feature for edit in edits) / 10,
        sum(item.steering.strength * edit.strength for item in interventions for edit in item.steering.edits),
        -1.0 if random_direction is None else float(random_direction),
    ]
    return Drawn(torch.tensor(told).view(1, 3, 1, 1).expand(1, 3, 4, 6), 0.0)


def test_each_row_begins_unsteered_and_ends_with_the_control():
    cells = plan(3, STRENGTHS, True)
    drawn = [(row, picture[0, :, 0, 0].tolist()) for row, picture in draw_rows(draw, ROWS, cells)]
    plain, control = [0.0, 0.0, -1.0], float(RANDOM_SEED)
    expected = [
        (0, plain), (1, plain), (2, plain),
        (0, [0.3, 0.15, -1.0]), (0, [0.3, -0.6, -1.0]), (0, [0.3, -0.6, control]),  # both features together
        (1, [0.1, 0.1, -1.0]), (1, [0.1, -0.4, -1.0]), (1, [0.1, -0.4, control]),
        (2, [0.2, 0.05, -1.0]), (2, [0.2, -0.2, -1.0]), (2, [0.2, -0.2, control]),
    ]  # fmt: skip
    assert [row for row, _ in drawn] == [row for row, _ in expected]
    assert [told for _, told in drawn] == [pytest.approx(told) for _, told in expected]


def test_every_step_is_told_and_the_unsteered_picture_is_drawn_once():
    told = []
    list(draw_rows(draw, ROWS, plan(3, STRENGTHS, False), lambda *now: told.append(now)))
    assert told == [(half / 2, 7, "whole" if half % 2 == 0 else "half") for half in range(1, 15)]


def test_pictures_come_one_by_one_until_it_is_cancelled():
    def cancel(done, total, shown):
        if done > 2:
            raise Cancelled

    found = []
    with pytest.raises(Cancelled):
        for row, picture in draw_rows(draw, ROWS, plan(3, STRENGTHS, True), cancel):
            found.append((row, picture))
    assert [row for row, _ in found] == [0, 1, 2, 0]
    assert float(found[3][1][0, 1, 0, 0]) == pytest.approx(0.15)


def test_the_plan_is_row_by_row_with_the_control_last():
    assert [tuple(cell) for cell in plan(2, parse_strengths("0.1; -0.5"), True)] == [
        (0, 0, 0.1, False), (0, 1, -0.5, False), (0, 2, -0.5, True),
        (1, 0, 0.1, False), (1, 1, -0.5, False), (1, 2, -0.5, True),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="strengths: 100 rows by 4 strengths are 401 pictures; a sheet has 400"):
        plan(100, [1.0, 2.0, 3.0, 4.0], False)


def swap_by_hand(x, features, replaced, strength):
    """Δ of `swap` for x (tokens, d_in), from codes and directions alone: everything out, `features` in."""
    codes, natural = SAE.encode(x), lambda edit: edit.strength * edit.mean * edit.density
    level = sum(edit.strength * codes[:, edit.feature] for edit in replaced) / sum(map(natural, replaced))
    put_in = sum(natural(edit) * SAE.direction([edit.feature])[0] for edit in features)
    out = sum(
        (edit.strength * codes[:, edit.feature]).unsqueeze(-1) * SAE.direction([edit.feature])[0] for edit in replaced
    )
    return strength * (level.unsqueeze(-1) * put_in - out), strength * out


def test_each_row_of_a_swap_takes_everything_out_and_the_rows_add_up_to_the_first():
    x = torch.randn(6, SAE.d_in, generator=torch.Generator().manual_seed(3))
    features = [Edit(1, 0.9, 2.0, 3.0, 0.5), Edit(2, 0.4, 1.5, 2.0, 0.2), Edit(5, 1.0, 0.7, 2.0, 0.9)]
    replaced = [Edit(3, 0.8, 1.0, 2.0, 0.4), Edit(4, 1.0, 2.5, 4.0, 0.3)]
    together, *alone = rows_of(SAE, [[Member(SAE, 0, SITE)]], Wanted(features, "swap", 1.0, "auto", replaced))
    assert [row.wanted.features for row in alone] == [[edit] for edit in features]
    found = []
    for row, edits in zip([together, *alone], [features, *([edit] for edit in features)], strict=True):
        [intervention] = row.at(1.5)
        found.append(intervention.steering.delta(x))
        expected, out = swap_by_hand(x, edits, replaced, 1.5)
        assert torch.allclose(found[-1], expected, atol=1e-5)
    assert float(out.norm()) > 0.1
    assert torch.allclose(found[0], sum(found[1:]) + 2 * out, atol=1e-5)  # n - 1 = 2


def test_of_a_set_all_act_together_and_each_feature_at_its_own_place():
    saes = [small_sae("relu").at(parse_location(f"transformer_blocks.{block}.attn", "image")) for block in (0, 1, 2)]
    both, d_sae = SaeSet(saes, "both"), SAE.d_sae
    known = {"mean": 1.0, "max": 2.0, "density": 0.5}
    features = [Edit(1, **known), Edit(d_sae + 2, **known), Edit(2 * d_sae + 3, **known)]
    replaced = [Edit(4, **known), Edit(2 * d_sae + 4, **known)]  # the second member has nothing to take out

    def sites(rows):
        return [[(item.site.blocks, item.steering.features) for item in row.at(1.0)] for row in rows]

    found = sites(rows_of(both, [members_at(both, "auto", "auto")], Wanted(features, "swap", 1.0, "auto", replaced)))
    first, third = ((0,), [1]), ((2,), [3])
    assert found == [[first, third], [first], [third]]
    parts = [members_at(both, f"transformer_blocks.{block}.attn", "auto") for block in (1, 2)]
    assert sites(rows_of(both, parts, Wanted(features, "add"))) == [[((1,), [2])], [third]]  # one feature at each
    with pytest.raises(ValueError, match=r"^replaces: no place of both has both features"):
        rows_of(both, parts[:1], Wanted(features, "swap", 1.0, "auto", replaced))


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
