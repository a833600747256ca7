# SPDX-License-Identifier: Apache-2.0
"""In which order files of tests run, and which of them have the machine for themselves.

Most tests wait: for a process that starts, for what shall happen. With EARSHOT_TEST_PROCESSES=2 they run in
two processes, a file's tests in one of them. Beside some files nothing else may run, since they place calls
whose sound is compared, or measure. These come last, in one process. Meanwhile the other one does, at a low
priority, what only computes.
"""

from __future__ import annotations

import fnmatch
import os
from enum import Enum
from functools import cache

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# Of files, from the checkout's root.
ALONE = (
    "tests/e2e/*",  # calls and browsers, in real time
    "tests/fleet/test_attach.py",  # calls likewise
    "tests/netns/test_bench_path.py",  # refuses to measure where packets are lost
    "tests/netns/test_flood.py",  # sends as much as a CPU can
    "tests/unit/test_transceiver_bench.py",
    "tests/unit/test_transceiver_floods.py",  # a call that may not miss a packet, beside floods
    "tests/unit/test_transceiver_voice_agent.py",
)
# They compute, one thread each, and nothing of theirs is in a hurry.
BESIDE = (
    "tests/bpf/test_[!bfs]*.py",  # not the bench, and not what races on all CPUs
    "tests/fuzz/*",
    "tests/spin/*",
    "tests/unit/test_fleet_sim.py",
)
NICENESS = 10


class Kind(Enum):
    """Of a file, by what may run beside it."""

    ANY = "whatever there is"
    BESIDE = "whatever there is, and it gives way"
    ALONE = "what gives way"


@cache
def _kind_of_file(path: str) -> Kind:
    for kind, patterns in ((Kind.ALONE, ALONE), (Kind.BESIDE, BESIDE)):
        if any(fnmatch.fnmatch(path, pattern) for pattern in patterns):
            return kind
    return Kind.ANY


def kind_of(test: str) -> Kind:
    """Of a test's file, or a file."""
    return _kind_of_file(test.partition("::")[0])


def order(items: list[pytest.Item]) -> None:
    """In the order of kinds; also in one process, so that it is always the same."""
    kinds = list(Kind)
    items.sort(key=lambda item: kinds.index(kind_of(item.nodeid)))


def give_way(item: pytest.Item) -> None:
    """Of several processes, one that computes beside others has a low priority from now on."""
    if "PYTEST_XDIST_WORKER" in os.environ and kind_of(item.nodeid) is Kind.BESIDE:
        os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


class Scheduling(LoadFileScheduling):
    """xdist's, which gives the next file to a process that is done with one; but not just any file."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        config.option.loadscopereorder = False  # the queue is in the order of the tests
        super().__init__(config, log)
        self._giving_way: set[WorkerController] = set()

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Another process may have waited for this test."""
        super().mark_test_complete(node, item_index, duration)
        self._wake()

    def remove_node(self, node: WorkerController) -> str | None:
        """Another process may have waited for this one."""
        crashed: str | None = super().remove_node(node)
        self._wake()
        return crashed

    def _wake(self) -> None:
        if self.workqueue and kind_of(next(iter(self.workqueue))) is not Kind.ANY:
            for node in self.nodes:
                if node in self.registered_collections:
                    self._reschedule(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        file = self._next_for(node)
        if file is not None:
            if kind_of(file) is Kind.BESIDE:
                self._giving_way.add(node)
            self.workqueue.move_to_end(file, last=False)
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if not self.workqueue or self._next_for(node) is not None:
            super()._reschedule(node)
        elif self._is_left_to_another(node):
            node.shutdown()  # it does what it has, and ends; another one does the rest

    def _next_for(self, node: WorkerController) -> str | None:
        """The next file that a process may have. None: there is none, or not yet."""
        others = self._others(node)
        first = {kind_of(file): file for file in reversed(self.workqueue)}
        if not others:
            return next(iter(self.workqueue))
        if Kind.ANY in first:
            return first[Kind.ANY]
        if Kind.ALONE in first:
            pending = (test for other in others for test in self._pending_tests(other))
            if node not in self._giving_way and all(kind_of(test) is Kind.BESIDE for test in pending):
                return first[Kind.ALONE]
            if not self._is_left_to_another(node):
                return None
        return first.get(Kind.BESIDE)

    def _is_left_to_another(self, node: WorkerController) -> bool:
        """Whether another process may do what is to be alone."""
        return any(not one.shutting_down for one in self._others(node) if one not in self._giving_way)

    def _others(self, node: WorkerController) -> list[WorkerController]:
        return [other for other in self.nodes if other is not node]

    def _pending_tests(self, node: WorkerController) -> list[str]:
        units = self.assigned_work[node].values()
        return [test for unit in units for test, is_done in unit.items() if not is_done]
