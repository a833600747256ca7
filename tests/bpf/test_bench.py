# SPDX-License-Identifier: Apache-2.0
"""The bench runs and says what it measured. How long anything took is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.netns]

ROOT = Path(__file__).parents[2]
PATHS = [
    *(f"established/{way}/{family}" for family in ("v4", "v6") for way in ("up", "down", "mixed")),
    *(f"media/{way}/{kind}" for way in ("up", "down", "mixed") for kind in ("unmeasured", "measured")),
    "bind/good",
    "bind/routable",
    "bind/again",
    *(
        f"reject/{kind}"
        for kind in (
            "no-flow",
            "unknown-ufrag",
            "bad-fingerprint",
            "bad-integrity",
            "random",
            "replay",
            "spent-source",
        )
    ),
]


def test_a_short_run(tmp_path: Path) -> None:
    told = tmp_path / "bench.json"
    short = ["--sizes", "1k", "--repeat", "2000", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.fastpath", "--json", str(told), *short],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(told.read_text())
    assert {"kernel", "cpus", "machine", "repeat", "rounds", "rows"} <= set(result)
    assert sorted(row["name"] for row in result["rows"]) == sorted(PATHS)
    for row in result["rows"]:
        assert row["name"] in done.stdout
        assert row["flows"] >= 1000
        assert row["ns"] > 0
        assert row["noop_ns"] > 0
        assert row["ratio"] == pytest.approx(row["ns"] / row["noop_ns"], abs=0.02)
        assert row["net_ns"] == pytest.approx(row["ns"] - row["driver_ns"], abs=0.02)
