# SPDX-License-Identifier: Apache-2.0
"""The bench of the control plane runs and says what it measured. How long anything took is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.netns]

ROOT = Path(__file__).parents[2]


def test_a_short_run(tmp_path: Path) -> None:
    told = tmp_path / "control.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.control", "--json", str(told), "--sessions", "2500", "--rounds", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(told.read_text())["rows"]
    assert row["sessions"] == 2500
    assert row["seconds"] > 0
    for state in ("quiet", "busy"):
        for name in ("GetCounters", "health"):
            assert row[state][name]["calls"] > 0
            assert row[state][name]["longest_ms"] >= row[state][name]["median_ms"] > 0
