# SPDX-License-Identifier: Apache-2.0
"""One packet as the program tells of it (struct tap_event), with names in place of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from control import abi
from control.addresses import Endpoint, from_bytes
from control.taps import frames
from control.taps.frames import Headers

_HEADER = abi.TAP_EVENT.itemsize
_DIRECTIONS: dict[int, str] = {
    abi.TapDirection.TO_TRANSCEIVER: "to_transceiver",
    abi.TapDirection.TO_CLIENT: "to_client",
}
_ACTIONS = {"pass": "PASS", "drop": "DROP", "aborted": "ABORTED"}


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that the program has handled.

    Attributes:
        time: nanoseconds of CLOCK_MONOTONIC, when the program had decided.
        ifindex, egress: of the links that it came and left by; egress is None if it was not forwarded.
        direction: to_transceiver or to_client; None where it is neither.
        client: whose it is; None where that is not known.
        reason: its name in lower case.
        action: XDP's, without its prefix.
        length: of the frame, in bytes; before and after may have fewer.
        before, after: the frame as it came and, if it was forwarded, as it left.
    """

    time: int
    ifindex: int
    egress: int | None
    direction: str | None
    client: Endpoint | None
    reason: str
    action: str
    length: int
    before: bytes
    after: bytes | None

    @property
    def headers(self) -> Headers:
        return frames.read(self.before)

    @property
    def headers_after(self) -> Headers | None:
        return None if self.after is None else frames.read(self.after)


def decode(record: bytes, snap: int) -> Packet:
    """A record as the kernel has padded it, of a tap with this limit to a frame's bytes."""
    event = np.frombuffer(record, abi.TAP_EVENT, 1)[0]
    length = int(event["length"])
    left = record[_HEADER : _HEADER + min(length, snap)]
    head = event["head"].tobytes()[: int(event["head_length"])]
    ifindex, egress, port = int(event["ifindex"]), int(event["egress"]), int(event["client_port"])
    direction = _DIRECTIONS.get(int(event["direction"]))
    reason = reason_name(int(event["reason"]))
    action = _ACTIONS.get(reason.partition("_")[0]) or ("TX" if egress == ifindex else "REDIRECT")
    return Packet(
        time=int(event["time"]),
        ifindex=ifindex,
        egress=egress or None,
        direction=direction,
        client=Endpoint(from_bytes(event["client"].tobytes()), port) if direction and port else None,
        reason=reason,
        action=action,
        length=length,
        before=head[: len(left)] + left[len(head) :],
        after=left if egress else None,
    )


def reason_name(number: int) -> str:
    """A later program may have reasons that this version knows no names of."""
    try:
        return abi.Reason(number).name.lower()
    except ValueError:
        return f"reason_{number}"
