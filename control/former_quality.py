# SPDX-License-Identifier: Apache-2.0
"""What was measured of flows when all of it was in one map, `quality_v1`: today's two are made of that."""

from __future__ import annotations

import numpy as np

from control import abi
from control.libbpf import Array

NAME = "quality_v1"
RECORD = np.dtype(
    {
        "names": ["streams", "trips", "binding", "unmeasured", "clock"],
        "formats": [(abi.STREAM, (4,)), (abi.TRIP, (2,)), "=u4", "=u4", "=u2"],
        "offsets": [0, 256, 304, 308, 312],
        "itemsize": 320,
    }
)


def first_streams(records: Array) -> Array:
    """Those in the first place of each way, as they stand in today's `quality`."""
    made = np.zeros(len(records), abi.QUALITY)
    made["streams"] = records["streams"][:, :2]
    return made


def all_else(records: Array) -> Array:
    """Further streams and round trips, as they stand in today's `quality_more`."""
    made = np.zeros(len(records), abi.QUALITY_MORE)
    made["streams"] = records["streams"][:, 2:]
    for name in ("trips", "binding", "unmeasured", "clock"):
        made[name] = records[name]
    return made
