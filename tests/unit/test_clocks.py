# SPDX-License-Identifier: Apache-2.0
"""No decision depends on the time of day, which anybody may set."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import control
from control.errors import DatapathError
from control.time_namespace import offset_of, refuse_another

PACKAGE = Path(control.__path__[0])
# What tells the time of day. time.time() and its like, and the classes that wrap it.
TIME_OF_DAY = {
    "time": {
        "time",
        "time_ns",
        "ctime",
        "localtime",
        "gmtime",
        "strftime",
        "clock_settime",
        "CLOCK_REALTIME",
    },
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
FOR_PEOPLE = {
    "logs.py": {"strftime", "gmtime"},
    "pki.py": {"now"},
    # Metrics: Prometheus reckons in seconds of the epoch.
    "attempts.py": {"time"},
    "daemon.py": {"time"},
    # Where epochs begin: likely, and no more, above those that Redis has forgotten.
    "homes.py": {"time"},
    # When packets came, for who looks at them.
    "tap.py": {"time_ns"},
    "trace.py": {"gmtime", "strftime", "localtime"},
}


def uses(tree: ast.AST) -> set[str]:
    """Names of what a module uses that tells the time of day."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = (
                node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            )
            if node.attr in TIME_OF_DAY.get(owner, set()):
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {name.name for name in node.names} & TIME_OF_DAY["time"]
    return found


def test_only_what_is_for_people_knows_the_time_of_day() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 30
    found = {path.name: uses(ast.parse(path.read_text())) for path in modules}
    assert {name: what for name, what in found.items() if what} == FOR_PEOPLE


def test_it_would_be_found() -> None:
    source = "import time, datetime\ntime.time()\ndatetime.datetime.now()\nfrom time import time_ns"
    assert uses(ast.parse(source)) == {"time", "now", "time_ns"}


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("monotonic           0         0\nboottime            0         0\n", (0, 0)),
        ("monotonic       86400         5\nboottime            0         0\n", (86400, 5)),
        ("monotonic          -1 999999999\nboottime           -7         0\n", (-1, 999999999)),
        ("", (0, 0)),
    ],
)
def test_offset(text: str, offset: tuple[int, int]) -> None:
    assert offset_of(text) == offset


def test_refuses_another_clock(tmp_path: Path) -> None:
    refuse_another(tmp_path / "not there")
    path = tmp_path / "offsets"
    path.write_text("monotonic 10 0\nboottime 0 0\n")
    with pytest.raises(DatapathError, match="time namespace"):
        refuse_another(path)
