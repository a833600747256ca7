# SPDX-License-Identifier: Apache-2.0
"""The headers of a frame, as far as people want to see them: of whole frames, cut short, or damaged.

Not the packet program's parser, which decides: what that one drops has to be told of, too.
"""

from __future__ import annotations

from typing import NamedTuple

from control.addresses import IPAddress, format_endpoint
from control.frames import UDP_HEADER, carried

_STUN_HEADER = 20
_STUN_COOKIE = b"\x21\x12\xa4\x42"
_STUN_USERNAME = 0x0006
_STUN_CLASSES = ("stun_request", "stun_indication", "stun_response", "stun_response")  # RFC 8489, 5

# What a packet can be (RFC 7983, and RFC 5761, 4, to tell RTCP from RTP).
CLASSES = ("stun_request", "stun_indication", "stun_response", "dtls", "rtp", "rtcp", "other")


class End(NamedTuple):
    """One end of a packet. The port is None where the frame does not say: not UDP, or a later fragment."""

    address: IPAddress
    port: int | None

    def __str__(self) -> str:
        return str(self.address) if self.port is None else format_endpoint(self.address, self.port)


class Headers(NamedTuple):
    """What a frame says of itself.

    source, destination: None if it is not IP.
    kind: one of CLASSES.
    ufrag: of a STUN request, what stands before the colon in USERNAME, as text that can be printed.
    """

    source: End | None
    destination: End | None
    kind: str
    ufrag: str | None


_NOT_IP = Headers(None, None, "other", None)


def read(frame: bytes) -> Headers:
    """The headers of an Ethernet frame; never raises."""
    found = carried(frame)
    if found is None:
        return _NOT_IP
    if found.is_later or not found.udp:
        return Headers(End(found.source, None), End(found.destination, None), "other", None)
    payload = found.udp[UDP_HEADER:]
    kind = kind_of(payload)
    return Headers(
        End(found.source, int.from_bytes(found.udp[0:2])),
        End(found.destination, int.from_bytes(found.udp[2:4])),
        kind,
        _ufrag(payload) if kind == "stun_request" else None,
    )


def kind_of(payload: bytes) -> str:
    """What the payload of UDP is, by its first bytes: one of CLASSES."""
    first = payload[0] if payload else 255
    if first <= 3 and len(payload) >= _STUN_HEADER and payload[4:8] == _STUN_COOKIE:
        return _STUN_CLASSES[(first & 1) << 1 | payload[1] >> 4 & 1]
    if 20 <= first <= 63:
        return "dtls"
    if 128 <= first <= 191:
        return "rtcp" if len(payload) > 1 and 192 <= payload[1] <= 223 else "rtp"
    return "other"


def _ufrag(message: bytes) -> str | None:
    """The server's half of USERNAME. ICE has letters, digits, + and /: anything else shows as a dot."""
    at = _STUN_HEADER
    while at + 4 <= len(message):
        kind, length = int.from_bytes(message[at : at + 2]), int.from_bytes(message[at + 2 : at + 4])
        if kind == _STUN_USERNAME:
            ufrag = message[at + 4 : at + 4 + length].partition(b":")[0]
            return "".join(chr(byte) if 32 < byte < 127 else "." for byte in ufrag)
        at += 4 + (length + 3 & ~3)
    return None
