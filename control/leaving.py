# SPDX-License-Identifier: Apache-2.0
"""Relay addresses that the configuration does not name any more.

No new flow is bound at them. Those that are there go on until they end, or until a deadline, when they are
ended; then the address is let go. After a restart it is found to be leaving as before, with a deadline of its
own.
"""

from __future__ import annotations

import logging

from control.addresses import IPAddress
from control.datapath import Datapath
from control.flows import Clock
from control.logs import event
from control.reaper import Reaper

_log = logging.getLogger(__name__)


class Leaving:
    """Those of one datapath."""

    def __init__(self, datapath: Datapath, reaper: Reaper, seconds: float, now: Clock) -> None:
        """`seconds`: how long flows may stay at an address that leaves."""
        self._datapath = datapath
        self._reaper = reaper
        self._since: dict[IPAddress, float] = {}
        self.reconfigure(seconds, now)

    def reconfigure(self, seconds: float, now: Clock) -> None:
        """The datapath serves others, or the time is another one."""
        self._seconds = seconds
        before, self._since = self._since, {}
        for number, address in self._datapath.leaving.items():
            self._since[address] = before.get(address, now.seconds)
            if address not in before:
                flows = len(self._datapath.flows_at(number))
                event(
                    _log, logging.INFO, "relay_address_leaving", address=address, flows=flows, seconds=seconds
                )
        self.look(now)

    def look(self, now: Clock) -> None:
        """Ends what has stayed too long, and lets go of addresses without flows. For now and then."""
        if not self._since:
            return
        for number, address in self._datapath.leaving.items():
            if self._since[address] + self._seconds <= now.seconds:
                flows = self._datapath.flows_at(number)
                if len(flows):
                    self._reaper.end_removed(flows, now)
                    event(_log, logging.WARNING, "relay_address_deadline", address=address, ended=len(flows))
        for address in self._datapath.retire():
            del self._since[address]
            event(_log, logging.INFO, "relay_address_gone", address=address)
