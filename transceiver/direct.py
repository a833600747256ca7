# SPDX-License-Identifier: Apache-2.0
"""RTP and RTCP of a call, from the socket to aiortc's receiver without a task in between.

aiortc has a task for each call that waits for the next datagram. To wake it takes a future, a place in the
loop's queue and often a round of the loop, for each packet of each call; and nothing that it then does with
RTP or RTCP ever waits, since `LiteConnection.send` never does. So that is done at once, where the datagram
has been read. DTLS, which is rare, still goes by the task.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pylibsrtp
from aiortc import clock
from aiortc.rtcdtlstransport import State, is_rtcp


class DirectMedia:
    """Takes what a DTLS transport's task would take, once it has keys."""

    def __init__(self, dtls: Any) -> None:
        self._dtls = dtls

    def take(self, data: bytes) -> bool:
        """Whether it was RTP or RTCP; then it is done with. Raises what aiortc raises at it."""
        dtls = self._dtls
        if not 127 < data[0] < 192 or dtls._state is not State.CONNECTED:  # RFC 7983
            return False
        try:
            if is_rtcp(data):
                handling = dtls._handle_rtcp_data(dtls._rx_srtp.unprotect_rtcp(data))
            else:
                arrived = clock.current_ms()
                handling = dtls._handle_rtp_data(dtls._rx_srtp.unprotect(data), arrival_time_ms=arrived)
        except pylibsrtp.Error:
            return True  # not the client's, or twice
        _finish(handling)
        return True


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("aiortc waits for something while it takes RTP")
