# SPDX-License-Identifier: Apache-2.0
"""The quality of flows as the command line shows it; NaN and null where nothing is measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from control.cli.output import Row
from control.datapath import Datapath
from control.flows import Clock

COLUMNS = ("up_loss", "down_loss", "up_jitter", "down_jitter", "client_trip", "transceiver_trip")


def columns(datapath: Datapath, numbers: NDArray[np.uint32], now: Clock) -> dict[str, NDArray[np.float64]]:
    """What flows are ordered by."""
    return {name: np.full(len(numbers), np.nan) for name in COLUMNS}


def summary(datapath: Datapath, number: int, now: Clock) -> Row:
    """Of one flow, in a line."""
    return {
        "to_transceiver_loss_ratio": None,
        "to_client_loss_ratio": None,
        "to_transceiver_jitter_milliseconds": None,
        "to_client_jitter_milliseconds": None,
        "client_trip_milliseconds": None,
        "transceiver_trip_milliseconds": None,
    }


def details(datapath: Datapath, number: int, now: Clock) -> Row | None:
    """Of one flow, all of it."""
    return None


def lines(quality: Row | None) -> list[str]:
    """The same for people."""
    return []
