"""The examples as a newcomer opens them at 1600 × 1000: readable, nothing over anything, before a run and after it."""

from itertools import combinations

import pytest

from workflows import workflow_files

FILES = {path.stem: path for path in workflow_files()}
NEED_FILES = ("FLUX.1", "Kandinsky", "ReVision")  # not run here: their models are large
LEAST_SCALE = 0.64  # core's text is 14 units high: 9 pixels
TOUCH = 2  # units that two nodes may share: borders


def overlaps(boxes):
    return [(one, other) for one, other in combinations(boxes, 2) if shared(boxes[one], boxes[other]) > TOUCH]


def shared(one, other):
    """How far two boxes (left, top, right, bottom) reach into each other."""
    return min(min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))


@pytest.mark.parametrize("name", FILES)
def test_nothing_lies_over_anything(comfy, name):
    comfy.page.set_viewport_size({"width": 1600, "height": 1000})
    comfy.load(FILES[name].read_text(encoding="utf-8"))
    assert comfy.fit() >= LEAST_SCALE
    assert overlaps(comfy.boxes()) == []
    if name.startswith(NEED_FILES):
        return
    comfy.finish(seconds=600)
    assert comfy.fit() >= LEAST_SCALE
    assert overlaps(comfy.boxes()) == []
