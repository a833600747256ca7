# SPDX-License-Identifier: Apache-2.0
"""The bench of a transceiver's capacity counts what there is. How much that is, is no test's business."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

ROWS = ("stock", "pcm-echo", "opus-pass-through")


async def test_sessions_are_carried_and_counted(tmp_path: Path) -> None:
    result = tmp_path / "bench.json"
    argv = ("-m", "bench.transceiver", "--quick", "--rows", *ROWS, "--most", "2", "--json", str(result))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *argv,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said.decode()
    found = json.loads(result.read_text())
    rows = found["rows"]
    assert [row["name"] for row in rows] == list(ROWS)
    for row in rows:
        assert row["sessions_per_core"] in (0, 1, 2)  # fewer where the machine has no time for two
        assert f"{row['name']}: 2 sessions".encode() in said
    carried = {row["name"]: row["sessions_per_core"] for row in rows}
    for name, ratios in found["of_stock"].items():
        assert ratios["sessions"] == carried[name] / carried["stock"]
