# SPDX-License-Identifier: Apache-2.0
"""In which order files of tests run, and which of them have the machine for themselves.

Most tests wait: for a process that starts, for what shall happen. They run in two processes, a file's tests
in one of them. Beside some files nothing else may run, since they place calls whose sound is compared, or
measure. These come last, in one process, once the other one has ended.
"""

from __future__ import annotations

import fnmatch

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# Of files, from the checkout's root.
ALONE = (
    "tests/e2e/*",  # calls and browsers, in real time
    "tests/netns/test_bench_path.py",  # refuses to measure where packets are lost
    "tests/netns/test_flood.py",  # sends as much as a CPU can
    "tests/unit/test_transceiver_bench.py",
    "tests/unit/test_transceiver_doors.py",  # a call that may not miss a packet, beside floods
    "tests/unit/test_transceiver_voice_agent.py",
)


def is_alone(test: str) -> bool:
    """Whether it is a test, or a file, beside which nothing else may run."""
    path = test.partition("::")[0]
    return any(fnmatch.fnmatch(path, pattern) for pattern in ALONE)


def order(items: list[pytest.Item]) -> None:
    """Puts those that are to be alone last; also in one process, so that the order is always the same."""
    items.sort(key=lambda item: is_alone(item.nodeid))


class Scheduling(LoadFileScheduling):
    """xdist's, which gives the next file to who is done with one; but what is alone to the last process."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        config.option.loadscopereorder = False  # the queue is in the order of the tests
        super().__init__(config, log)

    def remove_node(self, node: WorkerController) -> str | None:
        """When a process has ended, the last one may go on."""
        crashed = super().remove_node(node)
        for left in self.nodes:
            if left in self.registered_collections:
                self._reschedule(left)
        return crashed

    def _assign_work_unit(self, node: WorkerController) -> None:
        if not self._waits():
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if not self._waits():
            super()._reschedule(node)
        elif sum(not one.shutting_down for one in self.nodes) > 1:
            node.shutdown()  # it does what it has, and ends

    def _waits(self) -> bool:
        """Whether what comes next is to be alone, and there is more than one process."""
        return len(self.nodes) > 1 and bool(self.workqueue) and is_alone(next(iter(self.workqueue)))
