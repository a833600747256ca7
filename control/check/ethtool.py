# SPDX-License-Identifier: Apache-2.0
"""What a link's driver says of itself (linux/ethtool.h), without the `ethtool` program."""

from __future__ import annotations

import fcntl
import socket
import struct
from array import array
from contextlib import closing

from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool

_SIOCETHTOOL = 0x8946
_GDRVINFO, _GTXCSUM = 0x3, 0x16
_DRVINFO_BYTES = 196


def driver(interface: str) -> str:
    """Its name; empty where it tells none."""
    reply = _ask(interface, _GDRVINFO, _DRVINFO_BYTES)
    return reply[4:36].rstrip(b"\0").decode(errors="replace") if reply else ""


def has_tx_checksum(interface: str) -> bool:
    """Whether checksums of sent packets are left to the driver."""
    reply = _ask(interface, _GTXCSUM, 8)
    return bool(reply and struct.unpack_from("=I", reply, 4)[0])


def features(interface: str) -> frozenset[str]:
    """Names of those that are on, as the kernel has them: ``rx-gro-hw``; none where it cannot be told."""
    with closing(IoctlEthtool(interface)) as ethtool:
        try:
            return frozenset(name for name, is_on, *_ in ethtool.get_features() if is_on)
        except (EthtoolError, OSError):
            return frozenset()


def too_many_queues(interface: str) -> str:
    """How to have half of the queues, where there are more: drivers may need the other half for XDP."""
    with closing(IoctlEthtool(interface)) as ethtool:
        try:
            channels = ethtool.get_channels()
        except (EthtoolError, OSError):
            return ""
    kinds = [
        f"{kind} {max(1, channels[f'max_{kind}'] // 2)}"
        for kind in ("rx", "tx", "combined")
        if 2 * channels[f"{kind}_count"] > channels[f"max_{kind}"] > 1
    ]
    return f"ethtool -L {interface} {' '.join(kinds)}" if kinds else ""


def _ask(interface: str, command: int, size: int) -> bytes:
    """The kernel's reply; empty where the driver has none."""
    # struct ifreq holds a pointer to the command, which the reply replaces.
    buffer = array("B", struct.pack("=I", command).ljust(size, b"\0"))
    request = struct.pack("16sP16x", interface.encode(), buffer.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError:
            return b""
    return buffer.tobytes()
