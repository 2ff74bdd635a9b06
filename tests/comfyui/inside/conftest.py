"""Puts ComfyUI's modules and the whole pack, as `sae_steering_pack`, into this Python. Its folders are temporary."""

import asyncio
import shutil
import sys
import tempfile

import pytest

from comfy_install import comfyui_root
from pack_loader import load_pack
from project_files import ROOT

if not (comfyui_root() / "main.py").is_file():
    pytest.exit(f"no ComfyUI in {comfyui_root()}; set COMFYUI_PATH", returncode=4)

BASE = tempfile.mkdtemp(prefix="comfyui-inside-")
# The project's root (for `lab`) last: its `nodes` must not stand in front of ComfyUI's.
sys.path[:] = [str(comfyui_root()), *(entry for entry in sys.path if entry not in ("", str(ROOT))), str(ROOT)]

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True  # before model_management looks for a GPU
comfy.cli_args.args.base_directory = BASE

PACK = load_pack()
EXTENSION = asyncio.run(PACK.comfy_entrypoint())
asyncio.run(EXTENSION.on_load())

pytest_plugins = ["tiny_flux"]  # needs the pack


@pytest.fixture(scope="session")
def pack():
    """The pack's root module. Its parts: `from sae_steering_pack.sae.site import parse_location`."""
    return PACK


@pytest.fixture(scope="session")
def node_classes():
    """The pack's node classes by id, as ComfyUI gets them."""
    classes = asyncio.run(EXTENSION.get_node_list())
    return {cls.GET_SCHEMA().node_id: cls for cls in classes}


def pytest_unconfigure():
    shutil.rmtree(BASE, ignore_errors=True)
