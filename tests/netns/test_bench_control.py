# SPDX-License-Identifier: Apache-2.0
"""The bench of the control plane runs and says what it measured. How long anything took is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import reads

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.timeout(200)]

ROOT = Path(__file__).parents[2]
SIZES = (
    *("--sessions", "1000", "--streams", "5", "--samples", "20"),
    *("--flows", "5000", "--restored", "1250", "--quiet-seconds", "0.2"),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    told = tmp_path_factory.mktemp("bench") / "control.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.control", "--json", str(told), *SIZES],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(told.read_text())["rows"]}


@pytest.mark.parametrize(("name", "streams"), [("register/1-stream", 1), ("register/streams", 5)])
def test_registration(rows: dict[str, Any], name: str, streams: int) -> None:
    row = rows[name]
    assert (row["sessions"], row["streams"]) == (1000, streams)
    assert row["per_second"] == pytest.approx(1000 / row["seconds"], rel=0.01)
    for state in ("quiet", "busy"):
        for call in ("GetCounters", "health"):
            assert row[state][call]["longest_ms"] >= row[state][call]["median_ms"] > 0


@pytest.mark.parametrize("name", ["forwardable/idle", "forwardable/storm"])
def test_until_forwardable(rows: dict[str, Any], name: str) -> None:
    row = rows[name]
    assert row["samples"] > 0
    if name == "forwardable/idle":
        assert row["samples"] == 20
    assert 0 < row["answered_p50_ms"] < row["forwarded_p50_ms"] <= row["forwarded_p99_ms"]


def test_sweep(rows: dict[str, Any]) -> None:
    row = rows["sweep"]
    assert (row["flows"], row["sessions"], row["ended"]) == (5000, 1250, 5000)
    assert row["sweep_ms"] >= row["longest_step_ms"] / 10 > 0
    assert row["first_ms"] >= row["first_longest_step_ms"] > 0


def test_restart(rows: dict[str, Any]) -> None:
    row = rows["restart"]
    assert (row["flows"], row["sessions"]) == (5000, 1250)
    assert row["seconds"] > 0
    assert row["resident_mib"] >= row["own_mib"] > 0
    assert row["kernel_memory"]["bytes_per_session"] > 176  # an element of the map
    assert row["first_calls"]["health"]["calls"] > 0


def test_scrape(rows: dict[str, Any]) -> None:
    row = rows["scrape"]
    assert row["flows"] == 5000
    assert row["scrapes"] > 0
    assert 0 < row["median_seconds"] <= row["longest_seconds"]
    for state in ("quiet", "busy"):
        assert row[state]["GetCounters"]["longest_ms"] > 0


def test_read(rows: dict[str, Any]) -> None:
    row = rows["read"]
    assert (row.pop("flows"), row.pop("sessions")) == (5000, 1250)
    assert row.pop("name") == "read"
    assert row.pop("each further look of top").keys() == {
        "cpu_seconds"
    }  # so short a time may come out as none
    assert len(row) == len(reads.READS)
    assert all(min(figures.values()) > 0 for figures in row.values())
