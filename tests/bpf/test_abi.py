# SPDX-License-Identifier: Apache-2.0
"""One source of truth: the C headers, the generated Python, and the table for people agree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from control import abi, pinned
from control.abi import Reason
from control.reasons import EXPLAINED, is_loss, readme_rows

ROOT = Path(__file__).parents[2]
HEADER = (ROOT / "bpf" / "abi.h").read_text()


@pytest.fixture(scope="module")
def generated() -> str:
    """What bpf/generate_abi.py makes of the object, as it is formatted."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "bpf" / "generate_abi.py"), str(pinned.object_path())],
        capture_output=True,
        text=True,
        check=True,
    )
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "control/abi.py", "-"]
    return subprocess.run(
        ruff, input=made.stdout, capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


def test_abi_is_generated(generated: str) -> None:
    assert (ROOT / "control" / "abi.py").read_text() == generated


def test_sizes_are_those_that_the_header_asserts() -> None:
    asserted = re.findall(r"_Static_assert\(sizeof\(struct (\w+)\) == ([^,]+),", HEADER)
    assert len(asserted) > 5
    for name, size in asserted:
        if name != "address":  # a field of 16 bytes in Python
            expected = eval(size, {"LOCAL_SLOTS": abi.LOCAL_SLOTS})  # a sum in C, and in Python
            assert getattr(abi, name.upper()).itemsize == expected, name


def test_dtypes_have_no_overlap() -> None:
    for name, dtype in vars(abi).items():
        if not isinstance(dtype, np.dtype):
            continue
        end = 0
        for field, offset, *_ in sorted((dtype.fields or {}).values(), key=lambda entry: entry[1]):
            assert offset >= end, name
            end = offset + field.itemsize
        assert end <= dtype.itemsize, name


def test_every_reason_has_a_row_for_people() -> None:
    readme = (ROOT / "bpf" / "README.md").read_text()
    rows = re.findall(r"^\| `((?:pass|forward|drop|aborted)_\w+)` \| ([\w ]+) \|", readme, re.MULTILINE)
    assert [name for name, _ in rows] == [reason.name.lower() for reason in Reason]
    actions = {"pass": "PASS", "forward": "TX or REDIRECT", "drop": "DROP", "aborted": "ABORTED"}
    for name, action in rows:
        assert action == actions[name.partition("_")[0]]


def test_rows_for_people_are_what_the_command_line_says() -> None:
    readme = (ROOT / "bpf" / "README.md").read_text()
    rows = re.findall(r"^\| `(?:pass|forward|drop|aborted)_\w+` .*$", readme, re.MULTILINE)
    assert rows == readme_rows(), "run: python bpf/generate_reasons.py"


def test_whatever_is_lost_has_a_cure_of_its_own() -> None:
    assert list(EXPLAINED) == list(Reason)
    for reason, (meaning, cure) in EXPLAINED.items():
        assert meaning, reason
        assert cure or not is_loss(reason), reason
        assert "as above" not in cure, "rows are shown in another order, too"


def test_every_file_has_a_row_for_people() -> None:
    readme = (ROOT / "bpf" / "README.md").read_text()
    named = set(re.findall(r"^\| `([\w.]+\.[ch])` \|", readme, re.MULTILINE))
    assert named == {path.name for path in (ROOT / "bpf").glob("*.[ch]")}
