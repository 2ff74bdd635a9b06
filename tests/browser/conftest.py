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


PAGE = pytest.StashKey[ComfyPage]()


@pytest.fixture(scope="session", params=["classic", "nodes 2.0"])
def renderer(request, server, chromium):
    """A page in one of the renderers, for all tests in it: each page takes ten seconds to open."""
    page = request.session.stash[PAGE] = ComfyPage(chromium, server.client, vue=request.param == "nodes 2.0")
    yield page
    page.close()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """The page is closed as soon as other tests follow: while it only stands there it takes a tenth of a core."""
    if nextitem is not None and Path(__file__).parent not in nextitem.path.parents and PAGE in item.session.stash:
        item.session.stash[PAGE].close()


@pytest.fixture
def comfy(renderer, server):
    """An empty workflow, and no names, ranges or recipes but shipped ones. The console must say nothing of the pack."""
    renderer.begin()  # what the last test left in a field is sent now, and not into a folder that is being removed
    renderer.page.wait_for_timeout(150)
    for kept in (server.place.base / "user" / "default" / "sae_steering", server.place.output / "sae"):
        shutil.rmtree(kept, ignore_errors=True)
    renderer.begin()
    yield renderer
    assert renderer.complaints == []
