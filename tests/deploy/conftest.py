# SPDX-License-Identifier: Apache-2.0
"""What tests of the package have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

BUILT = Path(__file__).parents[2] / "build" / "deb"


@pytest.fixture(scope="session")
def package() -> Path:
    """The newest Debian package that was built."""
    built = sorted(BUILT.glob("earshot_*.deb"), key=lambda path: path.stat().st_mtime)
    assert built, "build one: deploy/deb/build"
    return built[-1]
