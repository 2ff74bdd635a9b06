"""Tests in real Chromium against real ComfyUI, in the classic canvas and in Nodes 2.0."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from comfy_install import find_comfyui
from comfy_page import ComfyPage
from comfy_server import ComfyServer, prepare

COMFYUI = find_comfyui()
CHROMIUM = os.environ.get("CHROMIUM_PATH") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def missing():
    """Why these tests cannot run here, or nothing."""
    if isinstance(COMFYUI, str):
        return COMFYUI
    if importlib.util.find_spec("playwright") is None:
        return "no playwright in this Python; pip install playwright"
    return None if CHROMIUM else "no chromium; install it, or set CHROMIUM_PATH"


def pytest_collection_modifyitems(items):
    reason = missing()
    if reason is not None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with ComfyServer(COMFYUI, prepare(tmp_path_factory.mktemp("browser"))) as running:
        yield running


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["classic", "nodes 2.0"])
def comfy(request, server, chromium):
    """A fresh page in one of the renderers. What the console said of the pack's files must be nothing at all."""
    found = ComfyPage(chromium, server.client, vue=request.param == "nodes 2.0")
    yield found
    found.close()
    assert found.complaints == []
