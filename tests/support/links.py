"""Links in tests, which not every system makes: Windows asks for a right to."""

from __future__ import annotations

from pathlib import Path

import pytest


def link(path: Path, target: Path) -> None:
    """A symbolic link at `path`; where the system makes none, the test is skipped and says so."""
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError as error:
        pytest.skip(f"this system makes no links: {error.strerror}")
