"""Tests in real ComfyUI: over the HTTP API of a server that these fixtures start, and inside its Python (inside/)."""

import json
import struct
from pathlib import Path

import pytest

from comfy_install import find_comfyui
from comfy_server import ComfyServer, prepare
from conftest_keys import INSIDE_SUMMARY

collect_ignore = ["inside"]  # needs ComfyUI's own Python: test_inside.py runs it there


COMFYUI = find_comfyui()


def pytest_collection_modifyitems(items):
    """One line a file where there is no ComfyUI, not one a test."""
    if isinstance(COMFYUI, str):
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=COMFYUI))


@pytest.fixture(scope="session")
def comfyui():
    """The ComfyUI installation."""
    return COMFYUI


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    """One running server for all HTTP tests: `server.place` has its folders, `server.log` what it said."""
    place = prepare(tmp_path_factory.mktemp("comfyui"))
    for path in (place.models / "sae" / "here" / "model.safetensors", place.elsewhere / "there.safetensors"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(empty_safetensors())
    (place.models / "sae" / "here" / "model.stats.safetensors").write_bytes(empty_safetensors())
    (place.elsewhere / "notes.txt").write_text("no SAE", encoding="utf-8")
    with ComfyServer(comfyui, place) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    return server.client


def empty_safetensors():
    header = json.dumps({"__metadata__": {}}).encode()
    return struct.pack("<Q", len(header)) + header


def pytest_terminal_summary(terminalreporter, config):
    if INSIDE_SUMMARY in config.stash:
        terminalreporter.write_line(f"Inside ComfyUI's Python: {config.stash[INSIDE_SUMMARY]}")
