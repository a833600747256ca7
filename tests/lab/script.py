# SPDX-License-Identifier: Apache-2.0
"""What a call of many says: premade Opus, each packet with the call's number and its own; and what came back.

Of the standard library alone, so that clients in other interpreters use it as well. A process that talks for
many calls keeps a file of all its scripts, which whoever started it reads.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

FRAME_MS = 60
FRAME = FRAME_MS / 1000  # seconds
FRAME_SAMPLES = FRAME_MS * 48
_MARK = struct.Struct("!II")
# RFC 6716, 3.2.5: a packet of one frame with padding. Decoders take whatever the padding is.
_CODE_3 = 3
_ONE_FRAME, _PADDED = 1, 0x40


def marked(packet: bytes, call: int, number: int) -> bytes:
    """An Opus packet of one frame (code 0), with two numbers in its padding."""
    if packet[0] & _CODE_3:
        raise ValueError("not an Opus packet of one frame")
    head = bytes([packet[0] | _CODE_3, _PADDED | _ONE_FRAME, _MARK.size])
    return head + packet[1:] + _MARK.pack(call, number)


@dataclass
class Script:
    """One call's part.

    Attributes:
        call: its number, nobody else's.
        state: where the client says that the call stands.
        address, port: where the call is made from, if the client knows.
        sent, returned: packets that were sent, and that came back just as they were.
        strange: what else came back.
    """

    call: int
    state: str = "new"
    address: str = ""
    port: int = 0
    sent: int = 0
    returned: int = 0
    strange: int = 0
    packets: Sequence[bytes] = field(default=(), repr=False)

    def next(self) -> bytes:
        """The next packet to send."""
        number = self.sent
        self.sent += 1
        return self._packet(number)

    def heard(self, packet: bytes) -> None:
        """Takes what came back."""
        call, number = _MARK.unpack(packet[-_MARK.size :]) if len(packet) > _MARK.size else (-1, -1)
        if call == self.call and number < self.sent and packet == self._packet(number):
            self.returned += 1
        else:
            self.strange += 1

    def _packet(self, number: int) -> bytes:
        return marked(self.packets[number % len(self.packets)], self.call, number)


_TOLD = [each.name for each in fields(Script) if each.name != "packets"]


def write(path: Path, scripts: Sequence[Script]) -> None:
    """Where all of them stand, now."""
    calls = [{name: getattr(script, name) for name in _TOLD} for script in scripts]
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"at": time.time(), "calls": calls}))
    os.replace(new, path)


def read(path: Path) -> tuple[float, list[Script]]:
    """When they were written (seconds of the epoch), and all of them; (0, none) before the first time."""
    if not path.exists():
        return 0.0, []
    said = json.loads(path.read_text())
    return said["at"], [Script(**call) for call in said["calls"]]
