# SPDX-License-Identifier: Apache-2.0
"""What of a message goes on to the next hop, where one process hands a request to another."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import hdrs
from multidict import CIMultiDict

PEER = "X-Earshot-Peer"  # by which the process in front tells a worker who has asked
HOP = "X-Earshot-Hop"  # by which a transceiver tells another that it has handed the request on

_OF_ONE_HOP = {  # what concerns one hop (RFC 9110, 7.6.1), and what each hop says for itself
    name.lower()
    for name in (
        *(hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TE, hdrs.TRAILER, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE),
        *(hdrs.CONTENT_LENGTH, hdrs.DATE, hdrs.EXPECT, hdrs.HOST, hdrs.SERVER, PEER),
    )
}


def end_to_end(headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """Those that go on, repeated ones included."""
    return CIMultiDict((name, value) for name, value in headers if name.lower() not in _OF_ONE_HOP)
