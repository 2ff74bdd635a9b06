"""The nodes' words in English are those of the schemas, and other languages translate nothing that is not there.

UPDATE_LOCALES=1 writes the English file.
"""

from __future__ import annotations

import json
import os

import pytest

from expected_nodes import NODE_IDS
from project_files import ROOT

LOCALES = ROOT / "locales"


@pytest.fixture(scope="module")
def english(client):
    """The words of all nodes, as ComfyUI's frontend looks them up."""
    return {node: words(client.object_info(node)) for node in sorted(NODE_IDS)}


def words(info):
    inputs = {}
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            options = info["input"][group][name][1:]
            inputs[name] = {"name": name, "tooltip": options[0]["tooltip"]}
    outputs = {
        str(slot): {"name": name, "tooltip": tooltip}
        for slot, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    }
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        **({"inputs": inputs} if inputs else {}),
        "outputs": outputs,
    }


def stored(language):
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_english_says_what_the_nodes_say(english):
    if os.environ.get("UPDATE_LOCALES"):
        (LOCALES / "en").mkdir(parents=True, exist_ok=True)
        text = json.dumps(english, ensure_ascii=False, indent=1)
        (LOCALES / "en" / "nodeDefs.json").write_text(f"{text}\n", encoding="utf-8")
    assert stored("en") == english


def test_chinese_translates_each_node_and_nothing_else(english):
    chinese = stored("zh")
    assert set(chinese) == set(english)
    assert list(beyond(chinese, english)) == []
    assert all(any("一" <= letter <= "鿿" for letter in node["description"]) for node in chinese.values())


def beyond(part, whole, path=""):
    """Keys of `part` that `whole` has not."""
    for key, value in part.items():
        if key not in whole:
            yield f"{path}/{key}"
        elif isinstance(value, dict):
            yield from beyond(value, whole[key], f"{path}/{key}")


def test_comfyui_serves_both(client):
    served = client.get_json("/i18n")
    assert served["zh"]["nodeDefs"]["FeatureMixer"]["display_name"] == "特征混合器"
    assert served["en"]["nodeDefs"]["FeatureMixer"]["display_name"] == "Feature Mixer"
