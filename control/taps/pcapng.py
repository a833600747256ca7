# SPDX-License-Identifier: Apache-2.0
"""Writes pcapng files (draft-ietf-opsawg-pcapng), as Wireshark and tshark read them.

Only what a capture has: one section, Ethernet, nanoseconds; an interface for each name; a comment and
a number for each packet. A file never ends within a block, also when the disk is full.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass, field
from itertools import accumulate

_SECTION, _INTERFACE, _PACKET, _STATISTICS = 0x0A0D0D0A, 1, 6, 5
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_ETHERNET = 1  # LINKTYPE_ETHERNET
_COMMENT, _APPLICATION = 1, 4
_NAME, _DESCRIPTION, _RESOLUTION = 2, 3, 9
_FLAGS, _PACKET_ID = 2, 5
_DROPPED = 5  # isb_ifdrop
_NANOSECONDS = b"\x09"
INBOUND, OUTBOUND = 1, 2

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FullError(OSError):
    """There is no room for more; what has been written before is whole."""


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    if options:
        options += struct.pack("=HH", 0, 0)
    length = struct.pack("=I", 12 + len(body) + len(options))
    return struct.pack("=I", kind) + length + body + options + length


def section(application: str) -> bytes:
    """The block that a file begins with."""
    body = struct.pack("=IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
    return _block(_SECTION, body, _option(_APPLICATION, application.encode()))


def interface(name: str, description: str, snap: int) -> bytes:
    """An interface; the first one in a file is number 0, and so on."""
    options = _option(_NAME, name.encode()) + _option(_DESCRIPTION, description.encode())
    return _block(
        _INTERFACE, struct.pack("=HHI", _ETHERNET, 0, snap), options + _option(_RESOLUTION, _NANOSECONDS)
    )


@dataclass(frozen=True, slots=True)
class Record:
    """One packet on one interface.

    Attributes:
        time: nanoseconds since 1970.
        length: of the frame on the wire; data may have less of it.
        direction: INBOUND or OUTBOUND.
        packet_id: the same for the same packet on several interfaces (epb_packetid).
    """

    interface: int
    time: int
    data: bytes
    length: int
    direction: int
    packet_id: int
    comment: str


def packet(record: Record) -> bytes:
    body = struct.pack(
        "=IIIII",
        record.interface,
        record.time >> 32,
        record.time & 0xFFFFFFFF,
        len(record.data),
        record.length,
    )
    options = _option(_COMMENT, record.comment.encode()) + _option(
        _FLAGS, struct.pack("=I", record.direction)
    )
    options += _option(_PACKET_ID, struct.pack("=Q", record.packet_id))
    return _block(_PACKET, body + record.data + bytes(-len(record.data) % 4), options)


def statistics(number: int, time: int, dropped: int) -> bytes:
    """How many packets of an interface are not in the file for want of room in a buffer, as of a moment."""
    body = struct.pack("=III", number, time >> 32, time & 0xFFFFFFFF)
    return _block(_STATISTICS, body, _option(_DROPPED, struct.pack("=Q", dropped)))


@dataclass
class Writer:
    """A file, or a pipe, that takes whole blocks up to a limit."""

    fd: int
    limit: int
    size: int = field(default=0, init=False)

    def write(self, blocks: list[bytes]) -> bool:
        """Appends blocks. False: not all of them, since the file is as long as it may get.

        Raises:
            FullError: the disk is full; the file ends with the last block that went in whole.
        """
        lengths = list(accumulate((len(block) for block in blocks), initial=self.size))
        fit = sum(length <= self.limit for length in lengths) - 1
        data = memoryview(b"".join(blocks[:fit]))
        start = self.size
        try:
            while data:
                written = os.write(self.fd, data)
                self.size, data = self.size + written, data[written:]
        except OSError as error:
            if error.errno not in _FULL:
                raise
            whole = max((length for length in lengths if length <= self.size), default=start)
            os.ftruncate(self.fd, whole)
            self.size = whole
            raise FullError(error.errno, os.strerror(error.errno or 0)) from error
        return fit == len(blocks)
