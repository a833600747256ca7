# SPDX-License-Identifier: Apache-2.0
"""What clients are told when they are to call again, elsewhere, because this transceiver is about to end.

    {"type": "move", "reason": "drain", "within_seconds": 240}    in good time: the call goes on until then
    {"type": "move", "reason": "shutdown", "within_seconds": 0}   the call ends now

A client that knows the event makes another call where it made this one, which the load balancer brings to
another transceiver, and ends this one when the other is up. Who does not know it takes no harm.
"""

from __future__ import annotations

import json
from enum import StrEnum

# Seconds that a message has to leave, before what it leaves by is closed.
TOLD = 0.1
# Of the time that calls have, the share after which the last of them has been told.
SPREAD = 0.5


class Why(StrEnum):
    """Why a client is to move; part of the event, and so API."""

    DRAIN = "drain"
    SHUTDOWN = "shutdown"


def move(why: Why, seconds: float) -> str:
    """The event; `seconds` are what is left of the call."""
    return json.dumps({"type": "move", "reason": why, "within_seconds": max(0, int(seconds))})


def pause(calls: int, seconds: float, pace: float) -> float:
    """Seconds from one client to the next: `pace` a second, or more if the time is short."""
    return min(1 / pace, seconds * SPREAD / max(calls, 1))
