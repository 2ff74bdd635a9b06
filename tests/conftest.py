"""Makes the library importable as `sae`. At the end of the path, where its neighbour `nodes` shadows nothing."""

import sys

import pytest

from project_files import ROOT

sys.path.append(str(ROOT))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """First what takes minutes in one piece, so that nobody waits for it alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_inside.py")
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_together(item)))


def _together(item):
    """Tests of one name share a process (--dist loadgroup): those of a file, but of the browser those of a renderer,
    for a server and a page take 20 seconds to start, and pages that only stand there a tenth of a core each."""
    if item.path.parent.name != "browser":
        return str(item.path.relative_to(ROOT))
    given = item.callspec.params if hasattr(item, "callspec") else {}
    return f"browser {given.get('renderer', 'classic')}"
