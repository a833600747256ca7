# SPDX-License-Identifier: Apache-2.0
"""One packet of a capture file, pcap or pcapng (draft-ietf-opsawg-pcap, -pcapng), read from its beginning.

Files are read block by block: a large one takes no more memory than a small one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

ETHERNET = 1
_PCAP = {
    b"\xa1\xb2\xc3\xd4": ">",
    b"\xd4\xc3\xb2\xa1": "<",
    b"\xa1\xb2\x3c\x4d": ">",
    b"\x4d\x3c\xb2\xa1": "<",
}
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_ORDER = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_LONGEST = 1 << 24  # of a block, as in other readers


class CaptureFault(ValueError):
    """The file is no capture, or broken, or has no such packet; the text says where."""


def packet(path: Path, number: int) -> bytes:
    """The packet of that number, the first being 1.

    Raises:
        CaptureFault, OSError.
    """
    count = 0
    with path.open("rb") as file:
        for count, (link_type, length, data) in enumerate(_packets(file), 1):
            if count < number:
                continue
            if link_type != ETHERNET:
                raise CaptureFault(
                    f"packet {number}: its link type is {link_type}, not Ethernet (1): "
                    "capture on a link by its name, not on any"
                )
            if len(data) < length:
                raise CaptureFault(
                    f"packet {number}: {len(data)} of its {length} bytes were captured: "
                    "capture it whole (tcpdump -s 0)"
                )
            return data
    raise CaptureFault(f"it has {count} packets, and no packet {number}")


def _packets(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Link type, length on the wire, and what was captured."""
    magic = _read(file, 4, "the file's header")
    if magic in _PCAP:
        yield from _of_pcap(file, _PCAP[magic])
    elif int.from_bytes(magic, "big") == _SECTION:
        file.seek(0)
        yield from _of_pcapng(file)
    else:
        raise CaptureFault(f"offset 0: {magic.hex()} begins neither a pcap nor a pcapng file")


def _of_pcap(file: BinaryIO, order: str) -> Iterator[tuple[int, int, bytes]]:
    (link_type,) = struct.unpack(f"{order}16xI", _read(file, 20, "the file's header"))
    number = 0
    while head := file.read(16):
        number += 1
        at = file.tell() - len(head)
        if len(head) < 16:
            raise CaptureFault(f"packet {number}, offset {at}: the file ends within its header")
        captured, length = struct.unpack(f"{order}8xII", head)
        if captured > _LONGEST:
            raise CaptureFault(f"packet {number}, offset {at}: {captured} bytes are no packet's")
        # The upper bits of the field say other things.
        yield link_type & 0x0FFFFFFF, length, _read(file, captured, f"packet {number}")


def _of_pcapng(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    order, link_types, number = "<", list[int](), 0
    while head := file.read(8):
        at = file.tell() - len(head)
        if len(head) < 8:
            raise CaptureFault(f"offset {at}: the file ends within a block's header")
        if int.from_bytes(head[:4], "big") == _SECTION:
            magic = _read(file, 4, "a section's header")
            if magic not in _ORDER:
                raise CaptureFault(f"offset {at + 8}: {magic.hex()} is no byte-order magic")
            order, link_types = _ORDER[magic], []
            file.seek(at + 8)
        kind, size = struct.unpack(f"{order}II", head)
        if size < 12 or size % 4 or size > _LONGEST:
            raise CaptureFault(f"offset {at}: {size} is no block's length")
        body = _read(file, size - 8, f"the block at offset {at}")[:-4]
        if kind == _INTERFACE and len(body) >= 8:
            link_types.append(struct.unpack_from(f"{order}H", body)[0])
        elif kind == _ENHANCED and len(body) >= 20:
            number += 1
            interface, captured, length = struct.unpack_from(f"{order}I8xII", body)
            if interface >= len(link_types) or captured > len(body) - 20:
                raise CaptureFault(
                    f"packet {number}, offset {at}: it is of no interface, or longer than its block"
                )
            yield link_types[interface], length, body[20 : 20 + captured]
        elif kind == _SIMPLE and len(body) >= 4 and link_types:
            number += 1
            (length,) = struct.unpack_from(f"{order}I", body)
            yield link_types[0], length, body[4 : 4 + length]


def _read(file: BinaryIO, size: int, what: str) -> bytes:
    at = file.tell()
    data = file.read(size)
    if len(data) < size:
        raise CaptureFault(f"offset {at}: the file ends within {what}")
    return data
