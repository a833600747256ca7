# SPDX-License-Identifier: Apache-2.0
"""What takes a Debian that is to be downloaded and booted is not of every day: scripts/nightly does it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BUILT = Path(__file__).parents[2] / "build" / "deb"
_NIGHTLY = ["test_fleet.py", "test_image.py", "test_machine.py"]
collect_ignore = [] if os.environ.get("EARSHOT_MACHINE") else _NIGHTLY


@pytest.fixture(scope="session")
def package() -> Path:
    """The newest Debian package that was built."""
    built = sorted(BUILT.glob("earshot_*.deb"), key=lambda path: path.stat().st_mtime)
    assert built, "build one: deploy/deb/build"
    return built[-1]
