# SPDX-License-Identifier: Apache-2.0
"""How many ports of each relay address are in which state: one pass over the flow table.

A relay address at a time: the interpreter is not held for longer than a millisecond, and whoever
waits for it meanwhile has it then.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.datapath import STATE_MASK, Datapath

Counts = NDArray[np.int64]  # by number of the relay address, and by abi.FlowState
_STATES = max(abi.FlowState) + 1


def count(datapath: Datapath) -> Counts:
    """As of now, roughly: flows come and go meanwhile."""
    layout = datapath.layout
    counts = np.zeros((layout.relays, _STATES), np.int64)
    for relay in range(layout.relays):
        states = datapath.flows["state"][relay * layout.span : (relay + 1) * layout.span] & STATE_MASK
        counts[relay] = np.bincount(states, minlength=_STATES)
    return counts
