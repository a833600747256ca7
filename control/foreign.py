# SPDX-License-Identifier: Apache-2.0
"""Enters flows that other relays of the group have bound, by the program of bpf/foreign.h.

The daemon writes no entry of the index and fills no record (docs/flow-table.md). So it hands a list to a
program, which binds each as a request for it would be, at the record that the list names.
"""

from __future__ import annotations

import os
import threading

import numpy as np

from control import abi, libbpf
from control.abi import Reason
from control.libbpf import Array

# The smallest thing that the kernel lets a program run on.
_PACKET_MIN = 14
# What the program says of a flow that is there from now on: entered, in place of another one, or was there.
THERE = (Reason.FORWARD_BOUND, Reason.FORWARD_REBOUND, Reason.FORWARD_TO_TRANSCEIVER)


class FlowEntering:
    """The program that enters them, in one datapath's hands."""

    def __init__(self, fd: int) -> None:
        """Takes the descriptor over."""
        self._fd = fd
        self._lock = threading.Lock()

    def enter(self, flows: Array) -> Array:
        """What has become of each of these (abi.FOREIGN), as abi.Reason. In the thread's network namespace.

        Each record must be FREE and in no ring. `DROP_FREE_LIST`: it is not FREE. `DROP_STALE_FLOW`: its
        client has a later flow. `DROP_BUSY`, or that its client cannot be reached: it may be tried again.

        Raises:
            OSError: the kernel refuses to run the program.
        """
        # numpy forgets the order of bytes where it joins arrays.
        flows = flows.astype(abi.FOREIGN, copy=False)
        outcomes = np.zeros(len(flows), np.uint32)
        with self._lock:
            for start in range(0, len(flows), abi.FOREIGN_MAX):
                part = flows[start : start + abi.FOREIGN_MAX]
                data = part.tobytes()
                assert len(data) >= _PACKET_MIN
                run = libbpf.run_program(self._fd, data)
                outcomes[start : start + len(part)] = np.frombuffer(run.data, abi.FOREIGN)["outcome"]
        return outcomes

    def replace(self, fd: int) -> None:
        """The program has been loaded anew."""
        with self._lock:
            os.close(self._fd)
            self._fd = fd

    def close(self) -> None:
        os.close(self._fd)
