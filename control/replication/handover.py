# SPDX-License-Identifier: Apache-2.0
"""A relay that is about to stop gives its calls to the others of its group, before it does."""

from __future__ import annotations

import asyncio
import logging

from control.batches import clock
from control.directory.errors import AwayError
from control.errors import EarshotError
from control.logs import event
from control.replication.group import Group

# For all of it. The others take an address within a fifth of a second.
SECONDS = 8.0
# Relays say once a second that they are there.
HEARING_SECONDS, HEARING_STEP = 2.5, 0.1

_log = logging.getLogger(__name__)


class HandoverError(EarshotError):
    """The calls are not safe with the others: this relay has its addresses still, or takes them back."""


async def hand_over(group: Group) -> list[str]:
    """Sees to it that all relays of the group that are there have all flows of ours, and that one of them
    answers for our addresses; returns their names.

    Nothing new is bound here from now on. Packets that still come are forwarded.

    Raises:
        HandoverError: nobody is there, somebody does not say that it has all, or the directory is away.
    """
    leases = group.leases
    if leases is None:
        raise HandoverError("relay addresses are not taken over here (group_takeover)")
    await _others_heard(group)
    # Before all else, so that what the others are told is all there will be.
    leases.shut()
    try:
        async with asyncio.timeout(SECONDS):
            others = group.others(clock())
            if not others:
                raise HandoverError("no other relay of the group is there")
            while not others <= await group.ask_who_knows():
                others = group.others(clock())
            await leases.leave()
            await leases.others_have_ours()
    except (AwayError, TimeoutError, HandoverError) as error:
        leases.stay()
        message = str(error) or "the others do not say in time that they have all flows"
        event(_log, logging.WARNING, "handover_failed", message=message)
        raise HandoverError(message) from error
    event(_log, logging.INFO, "handed_over", to=",".join(sorted(others)))
    return sorted(others)


async def _others_heard(group: Group) -> None:
    """Gives a daemon that was started a moment ago the time to hear of anybody."""
    for _ in range(round(HEARING_SECONDS / HEARING_STEP)):
        if group.others(clock()):
            return
        await asyncio.sleep(HEARING_STEP)
