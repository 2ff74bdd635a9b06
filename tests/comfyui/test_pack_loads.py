"""The pack in a running ComfyUI, from a folder whose name has blanks and a hyphen."""

import pytest

from comfy_server import PACK_FOLDER
from expected_nodes import INPUTS, NODE_IDS, OUTPUTS


@pytest.fixture(scope="module")
def nodes(client):
    return client.object_info()


def test_the_nodes_are_there_and_take_no_id_of_core(nodes):
    ours = {node_id for node_id, info in nodes.items() if info["python_module"] == f"custom_nodes.{PACK_FOLDER}"}
    assert ours == NODE_IDS


@pytest.mark.parametrize("node_id", INPUTS)
def test_inputs_and_outputs_are_those_of_the_design(nodes, node_id):
    order = nodes[node_id]["input_order"]
    assert [*order.get("required", []), *order.get("optional", [])] == INPUTS[node_id]
    assert nodes[node_id]["output"] == OUTPUTS[node_id]


@pytest.mark.parametrize("node_id", sorted(NODE_IDS))
def test_everything_is_described(nodes, node_id):
    info = nodes[node_id]
    assert info["category"].split("/")[0] == "SAE Steering"
    assert info["description"] and info["display_name"] != node_id
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    assert [name for name, spec in inputs.items() if len(spec) < 2 or not spec[1].get("tooltip")] == []
    assert all(info["output_tooltips"]) and len(info["output_tooltips"]) == len(info["output"])


def test_the_log_shows_no_failed_import(server):
    assert f"{PACK_FOLDER}" in server.log
    assert "IMPORT FAILED" not in server.log
    start, *since = server.log.split("Starting server")
    assert since and "Traceback" not in start  # later ones are of tests that want to see a failure


def test_saes_come_from_the_models_folder_and_from_extra_model_paths(nodes):
    """Weight files of both places, and no other file: no statistics, no text."""
    kind, details = nodes["LoadSAE"]["input"]["required"]["sae_name"][:2]
    offered = kind if isinstance(kind, list) else details["options"]
    names = {name.replace("\\", "/") for name in offered}
    laid = {name for name in names if name.startswith("here/") or "/" not in name}  # others are of other tests
    assert laid == {"here/model.safetensors", "there.safetensors"}
    assert [name for name in names if ".stats." in name or not name.endswith((".safetensors", ".pt", "/*"))] == []
