# SPDX-License-Identifier: Apache-2.0
"""Files of tests run beside each other, but those that are to be alone do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.alone import ALONE, BESIDE, NICENESS, Kind, kind_of

ROOT = Path(__file__).parents[2]
CONFTEST = """
import pytest
from tests.alone import Scheduling, give_way, order

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    give_way(item)

def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)

def pytest_collection_modifyitems(items):
    order(items)
"""
# What scripts/test gives to pytest.
OPTIONS = ("--numprocesses=2", "--dist=loadfile", "--max-worker-restart=0")
FILE = """
import json, os, time
import pytest

@pytest.mark.parametrize("number", range(3))
def test_it(number, worker_id):
    begun = time.monotonic()
    if {dies} and number == 1:
        os._exit(1)
    time.sleep(0.05)
    with open("ran", "a") as ran:
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        ran.write(json.dumps([{name!r}, number, worker_id, begun, time.monotonic(), niceness]) + chr(10))
"""


class Ran(NamedTuple):
    file: str
    number: int
    process: str
    begun: float
    ended: float
    niceness: int

    @property
    def kind(self) -> Kind:
        return kind_of(self.file)


def run(folder: Path, files: list[str], dies: str = "") -> tuple[str, list[Ran]]:
    """Runs such files in two processes; returns pytest's last line, and what ran."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST)
    for name in files:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(FILE.format(name=name, dies=name == dies))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist", *OPTIONS],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    ran = [Ran(*json.loads(line)) for line in (folder / "ran").read_text().splitlines()]
    return done.stdout.splitlines()[-1], ran


def assert_alone(ran: list[Ran]) -> None:
    """Nothing ran at the same time as a test that is to be alone, but what gives way."""
    for one, other in combinations(ran, 2):
        if Kind.ALONE in (one.kind, other.kind) and Kind.BESIDE not in (one.kind, other.kind):
            assert one.ended <= other.begun or other.ended <= one.begun, (one, other)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for one in ran:
        if one.kind is Kind.BESIDE:
            assert one.niceness == max(NICENESS, own)
        elif one.kind is Kind.ALONE:
            assert one.niceness == own


SHARED = [f"tests/unit/test_{letter}.py" for letter in "abcdef"]
LONELY = ["tests/e2e/test_calls.py", "tests/netns/test_bench_path.py"]
PATIENT = ["tests/fuzz/test_fuzz.py", "tests/spin/test_flow_table.py", "tests/bpf/test_mutations.py"]
ALL = SHARED + LONELY + PATIENT


def test_alone_comes_last_and_in_one_process(tmp_path: Path) -> None:
    summary, ran = run(tmp_path, ALL)
    assert f"{3 * len(ALL)} passed" in summary
    assert len({(one.file, one.number) for one in ran}) == len(ran) == 3 * len(ALL)
    assert {one.process for one in ran if one.kind is Kind.ANY} == {"gw0", "gw1"}
    assert len({one.process for one in ran if one.kind is Kind.ALONE}) == 1
    assert all(len({one.process for one in ran if one.file == file}) == 1 for file in ALL)
    assert_alone(ran)


@pytest.mark.parametrize("files", [LONELY, SHARED[:1] + LONELY, PATIENT, PATIENT + LONELY])
def test_there_need_not_be_all_kinds(tmp_path: Path, files: list[str]) -> None:
    summary, ran = run(tmp_path, files)
    assert f"{3 * len(files)} passed" in summary
    assert_alone(ran)


@pytest.mark.parametrize("dies", [SHARED[-1], LONELY[0], PATIENT[0]])
def test_a_process_that_dies_ends_it_all(tmp_path: Path, dies: str) -> None:
    """As failed, and without waiting for anything."""
    summary, ran = run(tmp_path, ALL, dies)
    assert "1 failed" in summary
    assert (dies, 0) in {(one.file, one.number) for one in ran}
    assert_alone(ran)


def test_patterns_are_of_files_that_are_there() -> None:
    for pattern in (*ALONE, *BESIDE):
        assert any(ROOT.glob(pattern)), pattern
