# SPDX-License-Identifier: Apache-2.0
"""libbpf by itself, as in the container image: bcc would bring a quarter of a gigabyte of LLVM with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# Whatever names no module in sys.modules is not found, as if it were not installed.
_LOOK = """
import json, sys
if {absent}:
    sys.modules["bcc"] = None
from control.check import host
findings = [host.library(), *host.program()]
with open("/proc/self/maps") as maps:
    llvm = "libLLVM" in maps.read()
print(json.dumps({{"findings": [finding._asdict() for finding in findings], "llvm": llvm}}))
"""


def look(*, absent: bool) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _LOOK.format(absent=absent)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.root
@pytest.mark.parametrize("absent", [False, True])
def test_the_kernel_takes_the_program(absent: bool) -> None:
    seen = look(absent=absent)
    assert [finding["status"] for finding in seen["findings"]] == ["ok"] * len(seen["findings"]), seen
    assert seen["llvm"] is not absent
    assert seen["findings"][0]["found"].endswith("by itself") is absent
