"""What is painted with the brush, as a mask: where, how much, and what is refused."""

import json
import math

import pytest
import torch

from sae.drawing.strokes import EMPTY, painted


def mask(*strokes, height=64, width=64):
    return painted(json.dumps({"strokes": list(strokes)}), height, width)


def test_nothing_painted_is_an_empty_mask_of_the_size():
    assert painted(EMPTY, 5, 9).shape == (5, 9)
    assert not painted(EMPTY, 5, 9).any()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 128), (33, 57)])
def test_a_dot_has_the_area_of_its_disc(height, width):
    found = mask({"points": [0.5, 0.5], "size": 0.25}, height=height, width=width)
    assert float(found.sum()) == pytest.approx(math.pi * (0.125 * width) ** 2, rel=0.06)
    assert float(found[height // 2, width // 2]) == 1
    rows, columns = (found.sum(1) > 0).nonzero().flatten(), (found.sum(0) > 0).nonzero().flatten()
    assert len(columns) == pytest.approx(0.25 * width, abs=2) and len(rows) == pytest.approx(0.25 * width, abs=2)


def test_a_line_is_as_thick_as_the_brush_and_lies_where_it_was_drawn():
    found = mask({"points": [0.25, 0.5, 0.75, 0.5], "size": 0.125})
    assert (found[:, 32] > 0.5).nonzero().flatten().tolist() == list(range(28, 36))
    assert float(found[32, :10].sum()) == float(found[32, 54:].sum()) == 0


def test_the_rubber_takes_away_and_later_strokes_paint_again():
    line, rub = {"points": [0, 0.5, 1, 0.5], "size": 0.5}, {"points": [0.5, 0.5], "size": 0.25, "erase": True}
    assert float(mask(line, rub)[32, 32]) == 0
    assert float(mask(line, rub)[32, 4]) == 1
    assert torch.equal(mask(line, rub, line), mask(line))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "strokes: the text"),
        ("{}", "strokes: a list of up to 2000 strokes"),
        ('{"strokes": [1]}', "stroke 1 must be an object with points, size"),
        ('{"strokes": [{"points": [0.1], "size": 0.1}]}', "stroke 1: points must be the numbers"),
        ('{"strokes": [{"points": [0.1, "a"], "size": 0.1}]}', "stroke 1: 'a' came where a share"),
        ('{"strokes": [{"points": [0.1, 0.1], "size": 0}]}', "stroke 1: 0 came where a share"),
        ('{"strokes": [{"points": [0.1, 1e9], "size": 0.1}]}', "came where a share"),
    ],
)
def test_other_texts_are_refused_in_one_sentence(text, told):
    with pytest.raises(ValueError, match=r"^strokes: ") as refused:
        painted(text, 8, 8)
    assert told in str(refused.value) and "\n" not in str(refused.value)
