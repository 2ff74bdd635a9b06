"""Keys of what the tests leave in pytest's stash."""

import pytest

INSIDE_SUMMARY = pytest.StashKey[str]()
