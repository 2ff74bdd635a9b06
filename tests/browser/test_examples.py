"""The examples as a newcomer opens them: readable, nothing over anything, before a run and after it."""

from itertools import combinations

import pytest

from workflows import workflow_files

FILES = {path.stem: path for path in workflow_files()}
NEED_FILES = ("FLUX.1", "Kandinsky", "ReVision", "SDXL")  # not run here: their models are large
SIZE = (1460, 820)  # units: of the whole, at most
LEAST_SCALE = 0.66  # at 1366 × 768; the classic canvas shows no text below 0.571
TOUCH = 2  # units that two nodes may share: borders


def overlaps(boxes):
    return [(one, other) for one, other in combinations(boxes, 2) if shared(boxes[one], boxes[other]) > TOUCH]


def shared(one, other):
    """How far two boxes (left, top, right, bottom) reach into each other."""
    return min(min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))


@pytest.mark.parametrize("name", FILES)
def test_nothing_lies_over_anything(comfy, name):
    comfy.page.set_viewport_size({"width": 1366, "height": 768})
    comfy.load(FILES[name].read_text(encoding="utf-8"))
    assert_readable(comfy)
    if name.startswith(NEED_FILES):
        return
    comfy.finish(seconds=600)
    assert_readable(comfy)


def assert_readable(comfy):
    assert comfy.fit() >= LEAST_SCALE
    boxes = comfy.boxes()
    assert overlaps(boxes) == []
    left, top, right, bottom = zip(*boxes.values(), strict=True)
    assert max(right) - min(left) <= SIZE[0] and max(bottom) - min(top) <= SIZE[1]
    kinds = comfy.page.evaluate("() => app.graph.nodes.map((node) => node.comfyClass)")
    assert not {"ImageCompare", "Painter"} & set(kinds)  # core's, which the classic canvas cannot show
