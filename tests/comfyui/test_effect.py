"""Features by their effect over the HTTP API: they steer, they cost what was told, and Cancel stops them at once."""

import re
import time

import pytest

from comfy_client import PromptFailed, PromptInterrupted
from lab.judge.reader import read_pictures
from workflows import compared, read_workflow, to_prompt, workflow_files

SHAPES = next(path for path in workflow_files() if path.stem == "Shapes - find and steer")


def of_type(prompt, kind):
    return [number for number, node in prompt.items() if node["class_type"] == kind]


@pytest.fixture
def by_effect(client):
    """The example with both of its searches by effect."""
    prompt = to_prompt(read_workflow(SHAPES), client.object_info())
    for number in of_type(prompt, "TopActivatingFeatures"):
        prompt[number]["inputs"]["rank_by"] = "effect"
    return prompt


@pytest.fixture
def noted(by_effect, server, request):
    """The first search alone, with a model that notes its calls; and what it has noted."""
    [number, *_] = of_type(by_effect, "TopActivatingFeatures")
    search = by_effect[number]["inputs"]
    inputs = {"model": search["model"], "name": request.node.name, "seconds": 0.0}
    by_effect["noted"] = {"class_type": "ProbeNoteForwards", "inputs": inputs}
    search |= {"model": ["noted", 0], "steps": 4}
    path = server.place.output / "probe" / request.node.name
    path.unlink(missing_ok=True)
    needed, queue = {}, [number]
    while queue:
        key = queue.pop()
        needed[key] = by_effect[key]
        queue += [value[0] for value in by_effect[key]["inputs"].values() if isinstance(value, list)]
    return number, needed, lambda: [int(line) for line in path.read_text().split()] if path.exists() else []


def test_they_steer(client, by_effect):
    entry = client.run(by_effect)
    steering = of_type(by_effect, "FluxActivationSteer")[0]
    before, after = (
        [picture.colour for picture in read_pictures(pictures)]
        for pictures in compared(client, entry, read_workflow(SHAPES))
    )
    assert before == ["red"] * 4 and after.count("blue") >= 3
    for number in of_type(by_effect, "TopActivatingFeatures"):
        shown = entry["outputs"][number]
        [payload] = shown["sae_steering"]
        values = [row["effect"] for row in payload["rows"]]
        assert payload["effect"] and values == sorted(values, reverse=True) and values[-1] > 0
        assert shown["text"][0].splitlines()[1].split()[5] == "effect"
    reports = client.get_json(f"/sae_steering/reports?prompt_id={entry['prompt'][1]}")["reports"]
    assert reports[steering]["text"].startswith("Steered 8 steps") and reports[steering]["warnings"] == []


def test_they_cost_what_was_told(client, server, noted):
    number, prompt, rows = noted
    said = len(server.log)
    entry = client.run(prompt)
    [line] = entry["outputs"][number]["sae_steering"][0]["lines"]
    told = int(re.match(r"effect: (\d+) forwards of one picture, as much as [\d.]+ pictures of 4 steps", line)[1])
    assert line in server.log[said:]
    pictures = rows()[0]  # of the contrast's batch
    done = sum(rows()) - 2 * 4 * pictures
    assert done == pytest.approx(told, rel=0.1) and told >= 4 * 10


def test_cancel_stops_them_within_a_forward(client, noted):
    _, prompt, rows = noted
    prompt["noted"]["inputs"]["seconds"] = 0.5
    prompt_id = client.queue(prompt)
    deadline = time.monotonic() + 120
    while len(rows()) < 2 * 4 + 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.interrupt()
    begun = len(rows())
    with pytest.raises(PromptInterrupted):
        client.wait(prompt_id, 60)
    assert len(rows()) <= begun + 1
    time.sleep(1)
    assert len(rows()) <= begun + 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"candidates": 300}, "candidates: 300 came, but .* has 256 features; give 1 to 256"),
        ({"baseline": None}, "baseline: 'effect' counts how far a feature moves the picture .* but no baseline came"),
    ],
)
def test_mistakes(client, noted, inputs, message):
    number, prompt, rows = noted
    given = {**prompt[number]["inputs"], **inputs}
    prompt[number]["inputs"] = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(PromptFailed, match=message):
        client.run(prompt)
    assert rows() == []
