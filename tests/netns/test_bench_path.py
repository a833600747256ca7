# SPDX-License-Identifier: Apache-2.0
"""The bench of whole paths runs and says what it measured. How fast anything is is not asked here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from bench.path import caches
from bench.path.measure import highest
from bench.path.plot import draw
from bench.path.written import Place, written
from control.abi import Reason

pytestmark = [pytest.mark.root, pytest.mark.netns]

ROOT = Path(__file__).parents[2]
FLOWS = 100
CPU = min(os.sched_getaffinity(0))


@pytest.mark.parametrize("most", [10, 1000, 1024, 77_777])
def test_the_highest_rate_is_found(most: int) -> None:
    found = highest(lambda rate: rate <= most, first=20)
    assert found == 20 if most < 20 else found <= most < found * 1.05


def test_established_packets_write_to_their_records_and_own_counters_alone() -> None:
    """No word that all CPUs write, whatever flow their packets are of."""
    records, reasons = sorted(written(FLOWS, range(10), CPU), key=lambda place: place.map)
    assert records == Place(records.map, tuple(range(10)), ())
    assert records.map.startswith("flows_")
    assert reasons.map.startswith("reasons_")
    assert reasons.entries == (Reason.FORWARD_TO_TRANSCEIVER, Reason.FORWARD_TO_CLIENT)
    assert reasons.cpus == (CPU,)


def test_a_short_run(tmp_path: Path) -> None:
    told = tmp_path / "path.json"
    short = ["--quick", "--flows", "50", "--sizes", "80"]
    one, more = ["--families", "6", "--candidates", "earshot"], ["--families", "4", "--candidates", "blind"]
    for asked in (one, [*more, "--append"]):
        done = subprocess.run(
            [sys.executable, "-m", "bench.path", "--json", str(told), *short, *asked],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
    rows = json.loads(told.read_text())["rows"]
    assert [(row["family"], row["candidate"]) for row in rows] == [
        (4, "no relay"),
        (4, "blind"),
        (6, "no relay"),
        (6, "blind"),
        (6, "earshot"),
    ]
    for row in rows:
        assert row["flows"] == row["flows_asked"] == 50
        assert row["pps"] > 0
        assert row["ns"] == pytest.approx(row["hop_ns"] + row["net_ns"], abs=0.2)
        assert row["idle"]["probes"] == 50
        assert np.isfinite([row[load][key] for load in ("idle", "half") for key in ("p50", "p99")]).all()
    picture = ElementTree.fromstring(draw(rows, 6, 80))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"no relay", "blind", "earshot"} <= set(texts)


def test_a_short_run_of_scaling(tmp_path: Path) -> None:
    told = tmp_path / "scaling.json"
    short = ["--flows", "100", "--rounds", "1", "--repeat", "1000", "--seconds", "0.05"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.path.scaling", "--json", str(told), *short],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(told.read_text())["rows"]
    assert len(rows) == 3 * (4 + 2)
    assert all(row["scaling"] > 0 for row in rows)
    listed = subprocess.run(
        [sys.executable, "-m", "bench.path.scaling", "--stores"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=100,
    )
    assert "flow->up_packets++" in listed.stdout
    assert "counter->packets++" in listed.stdout


def test_a_short_look_at_caches(capsys: pytest.CaptureFixture[str]) -> None:
    caches.main(["--flows", "100", "--few", "10", "--tables", "1", "--rounds", "1"])
    heads, figures = capsys.readouterr().out.splitlines()
    assert len(figures.split()) == 4
    assert all(float(figure) > 0 for figure in figures.split())
    assert "blind" in heads
