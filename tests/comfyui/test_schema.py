"""Every node's /object_info against a snapshot: workflows that people saved must load for ever, so only additions pass.

UPDATE_SNAPSHOT=1 writes what was added into the snapshot; what was taken away stays an error.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from expected_nodes import NODE_IDS

SNAPSHOT = Path(__file__).parent / "object_info.json"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
FILES = {  # lists of files
    ("LoadSAE", "sae_name"), ("LoadKandinsky22", "prior"), ("LoadKandinsky22", "decoder"), ("LoadRecipe", "saved"),
}  # fmt: skip
LIMITS = ("default", "min", "max", "step", "multiline")


def described(node_id, info):
    """What a saved workflow or a prompt relies on: names, types, order, defaults, limits, choices."""
    inputs = {}
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, *options = info["input"][group][name]
            given = options[0] if options else {}
            known = {key: given[key] for key in LIMITS if key in given}
            if kind == "COMBO" and (node_id, name) not in FILES:
                known["options"] = given["options"]
            if (node_id, name) in FILES:
                known.pop("default", None)
            inputs[name] = {"type": kind, "group": group, **known}
    outputs = [[name, kind] for name, kind in zip(info["output_name"], info["output"], strict=True)]
    return {"inputs": inputs, "outputs": outputs, "output_node": info["output_node"], "category": info["category"]}


def became_optional(old, new):
    """A socket that need not be wired any more stands after the others; workflows find it by its name."""
    groups = old["group"], new["group"]
    return groups == ("required", "optional") and old["type"] == new["type"] and old["type"] in ("SAE", "SAE_FEATURES")


def taken_away(old, new):
    """What the snapshot has and the node has no more, in words."""
    freed = {name for name, spec in old["inputs"].items() if became_optional(spec, new["inputs"].get(name, spec))}
    before = [name for name in old["inputs"] if name not in freed]
    if [name for name in new["inputs"] if name not in freed][: len(before)] != before:
        yield f"inputs were {list(old['inputs'])}, now {list(new['inputs'])}: only append"
    for name in set(old["inputs"]) & set(new["inputs"]):
        before, after = dict(old["inputs"][name]), dict(new["inputs"][name])
        if not set(before.pop("options", [])) <= set(after.pop("options", [])):
            yield f"{name}: choices were taken away"
        required = before.pop("group") == "required"
        if not required and after.pop("group") == "required":
            yield f"{name}: was optional"
        if required:  # every graph and prompt has its value, without which ComfyUI refuses to run
            before.pop("default", None)
        yield from (
            f"{name}: {key} was {before[key]}, now {after.get(key)}" for key in before if before[key] != after.get(key)
        )
    for name in set(new["inputs"]) - set(old["inputs"]):
        if new["inputs"][name]["group"] != "optional":
            yield f"{name}: a new input must be optional"
    if new["outputs"][: len(old["outputs"])] != old["outputs"]:
        yield f"outputs were {old['outputs']}, now {new['outputs']}: only append"
    if old["output_node"] and not new["output_node"]:
        yield "it was an output node"


@pytest.fixture(scope="module")
def nodes(client):
    known = client.object_info()
    return {node_id: described(node_id, known[node_id]) for node_id in sorted(NODE_IDS)}


def test_nothing_that_people_saved_was_taken_away(nodes):
    old = json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else {}
    assert set(old) <= set(nodes), "a node's id was taken away"
    found = {node_id: list(taken_away(old[node_id], nodes[node_id])) for node_id in old}
    assert {node_id: lines for node_id, lines in found.items() if lines} == {}
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(nodes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def test_the_snapshot_knows_every_node(nodes):
    assert set(json.loads(SNAPSHOT.read_text(encoding="utf-8"))) == set(nodes)


def test_changes_that_would_break_workflows_are_noticed(nodes):
    old = nodes["FluxActivationSteer"]

    def with_inputs(change):
        inputs = {name: dict(spec) for name, spec in old["inputs"].items()}
        return {**old, "inputs": change(inputs)}

    def edited(name, **values):
        return with_inputs(lambda inputs: {**inputs, name: {**inputs[name], **values}})

    assert list(taken_away(old, old)) == []
    extra = {"type": "INT", "group": "optional", "default": 1}
    assert list(taken_away(old, with_inputs(lambda inputs: {**inputs, "more": extra}))) == []
    assert list(taken_away(old, edited("method", options=[*old["inputs"]["method"]["options"], "new"]))) == []
    assert list(taken_away(old, edited("strength", default=5.0))) == []
    optional = with_inputs(lambda inputs: {**inputs, "more": extra})
    changed = {**optional, "inputs": {**optional["inputs"], "more": {**extra, "default": 2}}}
    assert list(taken_away(optional, changed)) == ["more: default was 1, now 2"]
    loose = {**old["inputs"]["replaces"], "group": "required"}
    needed = {**old, "inputs": {"replaces": loose, **{k: v for k, v in old["inputs"].items() if k != "replaces"}}}
    assert list(taken_away(needed, old)) == []
    broken = [
        with_inputs(lambda inputs: {"first": extra, **inputs}),
        with_inputs(lambda inputs: {name: spec for name, spec in inputs.items() if name != "unit"}),
        with_inputs(lambda inputs: {**inputs, "more": {**extra, "group": "required"}}),
        edited("strength", max=1.0),
        edited("method", options=["add"]),
        edited("mask", group="required"),
        edited("sae", type="MODEL"),
        {**old, "outputs": []},
    ]
    assert [bool(list(taken_away(old, new))) for new in broken] == [True] * len(broken)
