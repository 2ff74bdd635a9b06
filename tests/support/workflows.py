"""Example workflows as ComfyUI's frontend saves them, turned into prompts for its HTTP API."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from project_files import ROOT

FOLDER = ROOT / "example_workflows"
WIDGETS = (  # types with a widget
    *("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"),
    *("SAE_STEERING_MIX", "SAE_STEERING_STROKES"),
)
SEED_CONTROL = ("fixed", "increment", "decrement", "randomize")
NOTES = ("MarkdownNote", "Note")


def workflow_files() -> list[Path]:
    return sorted(FOLDER.glob("*.json"))


def read_workflow(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Widget values go to the inputs without a link, in the schema's order, as the frontend counts them."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        inputs = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        inputs |= _widgets(node, object_info[node["type"]])
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _widgets(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    order = [name for group in ("required", "optional") for name in info["input_order"].get(group, [])]
    values, found = list(node.get("widgets_values") or []), {}
    for name in order:
        kind = specs[name][0]
        if not (isinstance(kind, list) or kind in WIDGETS):
            continue
        if not values and name in info["input"].get("optional", {}):
            break  # the workflow is older than this input, which then has its default
        found[name] = values.pop(0)
        if kind == "INT" and values and values[0] in SEED_CONTROL:
            values.pop(0)
        told = specs[name][1] if len(specs[name]) > 1 else {}
        if told.get("image_upload") and told.get("widgetType") != "PAINTER" and values:
            values.pop(0)  # the upload button
    if values:
        raise ValueError(f"{node['type']}: {len(values)} widget values too many: {values}")
    return found


def by_type(prompt: dict[str, Any], kind: str) -> dict[str, Any]:
    """The first node of a type."""
    return next(node for node in prompt.values() if node["class_type"] == kind)


def compared(client: Any, entry: dict[str, Any], workflow: dict[str, Any]) -> list[torch.Tensor]:
    """What the workflow's Before and After shows, before and after, as `pictures_of`."""
    node = next(str(node["id"]) for node in workflow["nodes"] if node["type"] == "BeforeAndAfter")
    return [pictures_of(client, entry, node, side) for side in ("before", "after")]


def pictures_of(client: Any, entry: dict[str, Any], node: str, name: str = "images") -> torch.Tensor:
    """(batch, 3, height, width) in 0..1 of a node's images, by the name that it shows them under."""
    found = [Image.open(io.BytesIO(client.view(image))).convert("RGB") for image in entry["outputs"][node][name]]
    return torch.stack([torch.from_numpy(np.asarray(picture) / 255).movedim(-1, 0).float() for picture in found])
