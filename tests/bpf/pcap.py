# SPDX-License-Identifier: Apache-2.0
"""Reads pcap files of Ethernet frames (the classic format, version 2.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_MAGICS = {0xA1B2C3D4, 0xA1B23C4D}  # microseconds, nanoseconds
_ETHERNET = 1


def frames(path: Path) -> Iterator[bytes]:
    """Each frame of a file, in order.

    Raises:
        ValueError: the file is no such pcap, or a frame was not captured whole.
    """
    raw = path.read_bytes()
    order = next((one for one in "<>" if struct.unpack_from(f"{one}I", raw)[0] in _MAGICS), None)
    if order is None or struct.unpack_from(f"{order}I", raw, 20)[0] & 0xFFFF != _ETHERNET:
        raise ValueError(f"{path.name} is not a pcap of Ethernet frames")
    offset = 24
    while offset < len(raw):
        captured, length = struct.unpack_from(f"{order}II", raw, offset + 8)
        offset += 16
        frame = raw[offset : offset + captured]
        if not captured == length == len(frame):
            raise ValueError(f"{path.name}: a frame is cut short")
        yield frame
        offset += captured
