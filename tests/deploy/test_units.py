# SPDX-License-Identifier: Apache-2.0
"""The units as systemd reads them: without a fault, and with no more exposed than was meant.

tests/deploy/test_machine.py starts them for real.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
# `systemd-analyze security`, from 0 (nothing) to 10 (everything): what each has today, of what it needs. The
# daemon's is its three capabilities, the host's network and netlink; what readies the host for it is root.
EXPOSURE = {"earshotd.service": 2.1, "earshotd-prepare.service": 4.3, "earshot-transceiver@.service": 1.4}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system in which the units and what they start are in place."""
    units = tmp_path / "lib/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS.glob("*.service"):
        shutil.copy(unit, units)
    for program in (
        "usr/bin/earshotd",
        "usr/bin/earshot",
        "usr/bin/earshot-transceiver",
        "usr/lib/earshot/prepare",
    ):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return tmp_path


def analyze(*argv: str) -> tuple[int, str]:
    """What it ends with, and what it says."""
    done = subprocess.run(["systemd-analyze", *argv], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def verify(root: Path, *units: str) -> tuple[int, str]:
    """Of these alone: the root has none of those that they are ordered by."""
    return analyze("verify", "--recursive-errors=no", "--man=no", f"--root={root}", *units)


def test_units_have_no_fault(root: Path) -> None:
    assert sorted(EXPOSURE) == sorted(path.name for path in UNITS.glob("*.service"))
    assert verify(root, *(name.replace("@.", "@one.") for name in EXPOSURE)) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("WatchdogSec=30", "WatchdogSec=often"),
        ("ProtectHome=yes", "ProtectHouse=yes"),
        ("ExecStart=/usr/bin/earshotd", "ExecStart=/usr/bin/earshoot"),
    ],
)
def test_a_fault_would_be_found(root: Path, right: str, wrong: str) -> None:
    unit = root / "lib/systemd/system/earshotd.service"
    text = unit.read_text()
    assert right in text
    unit.write_text(text.replace(right, wrong))
    _, said = verify(root, "earshotd.service")
    assert "earshotd.service" in said


@pytest.mark.parametrize(("unit", "most"), EXPOSURE.items())
def test_exposure(unit: str, most: float) -> None:
    threshold = f"--threshold={round(most * 10)}"  # in tenths
    status, said = analyze("security", "--offline=true", threshold, str(UNITS / unit))
    assert status == 0, said
