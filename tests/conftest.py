# SPDX-License-Identifier: Apache-2.0
"""What all tests share: labs, and what is printed of them when a test fails."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer

from tests import alone
from tests.lab.leftovers import sweep
from tests.lab.netns import Lab
from tests.lab.nightly import NIGHTLY

LOG_TAIL = 6000

# Tests never assert on time, properties neither.
settings.register_profile("earshot", deadline=None)
settings.load_profile("earshot")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Removes what dead processes have left: once, not by each process that runs a part of the tests."""
    if os.geteuid() == 0 and not hasattr(session.config, "workerinput"):
        sweep()
        if session.config.getoption("dist", "no") != "no":
            with Lab() as lab:  # the first one mounts what there is once on a machine
                lab.host("first")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> alone.Scheduling:
    """Where tests run in several processes (scripts/test)."""
    return alone.Scheduling(config, log)


def pytest_itemcollected(item: pytest.Item) -> None:
    """A file may say by its name that all of it is of the night."""
    if item.path.stem.endswith("_nightly"):
        item.add_marker(pytest.mark.nightly)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves to the night what is of the night; puts last what others wait for, or have to wait for.

    Without root, what needs it is skipped; CI is root, and fails if anything was skipped.
    """
    if not NIGHTLY:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("nightly")])
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    alone.order(items)
    if os.geteuid() == 0:
        return
    for item in items:
        if any(item.get_closest_marker(name) for name in ("root", "netns", "e2e")):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before its fixtures."""
    alone.give_way(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the end of every log of the test's labs."""
    report = yield
    if report.failed:
        values = getattr(item, "funcargs", {}).values()
        labs = {value if isinstance(value, Lab) else getattr(value, "lab", None) for value in values}
        for log in sorted(log for lab in labs if isinstance(lab, Lab) for log in lab.dir.glob("*.log")):
            report.sections.append((log.name, log.read_text(errors="replace")[-LOG_TAIL:]))
    return report


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """An empty lab for a module's tests: `lab.host(...)`, `lab.link(...)`, `lab.popen(...)`."""
    with Lab() as made:
        yield made
