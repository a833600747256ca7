# SPDX-License-Identifier: Apache-2.0
"""Whether what comes by one link is small enough to leave by another.

A packet leaves at the length at which it came, IPv4 as IPv4 and IPv6 as IPv6 (bpf/rewrite.h). One that is
larger than the MTU of its way out is dropped (`drop_too_big`) and its sender is not told: agents of WebRTC do
not look for a path's MTU, and a call whose handshake has such a packet never connects.
"""

from __future__ import annotations

from collections.abc import Sequence

from control.check.finding import Finding, failed, ok
from control.check.links import Link
from control.config import SMALLEST_MTU

NAME = "mtu"  # of the finding


def mtus(links: Sequence[Link], largest: int) -> Finding:
    """Of the links that a configuration names; `largest`: bytes of the largest IP packet that a call has."""
    narrow = min(links, key=lambda link: link.mtu)
    wide = max(links, key=lambda link: link.mtu)
    found = ", ".join(f"{link.name} {link.mtu}" for link in links)
    if narrow.mtu < SMALLEST_MTU:
        return failed(
            NAME,
            f"{found}: calls have packets of {SMALLEST_MTU} bytes and more, and {narrow.name} takes at most "
            f"{narrow.mtu}",
            f"ip link set dev {narrow.name} mtu 1500, and the same at its other end",
        )
    arrives = min(wide.mtu, largest)
    if narrow.mtu < arrives:
        return failed(
            NAME,
            f"{found}: a packet of {narrow.mtu + 1} to {arrives} bytes that comes by {wide.name} cannot "
            f"leave by {narrow.name}, and is lost",
            f"ip link set dev {narrow.name} mtu {arrives}, and the same at its other end; where that cannot "
            f"be, and no client and no transceiver sends more: largest_packet = {narrow.mtu}",
        )
    if narrow.mtu == wide.mtu:
        return ok(NAME, f"{narrow.mtu} on all links")
    return ok(NAME, f"{found}: a packet of a call, of {largest} bytes at most, fits them all")
