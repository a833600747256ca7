# SPDX-License-Identifier: Apache-2.0
"""Which number a relay address has among the records: it keeps it for as long as flows may be at it.

A relay address that the configuration names is *served*: new flows are bound at it. One that it does not
name any more is *leaving* while flows are at it, and is then *gone*: its number, and the records of that
number, are for the next address of its family. Nothing of this is written down: who is known is in relays_v1,
who is served or leaving in locals_v2, and which of the two, the configuration tells.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from control import abi
from control.addresses import IPAddress
from control.errors import DatapathError


def assign(
    known: Sequence[IPAddress], present: Collection[int], wanted: Sequence[IPAddress]
) -> dict[int, IPAddress]:
    """Numbers for the addresses that are to be served, here or by another relay of the group.

    Args:
        known: by number, all for which there are records.
        present: the numbers of those that are served or leaving.
        wanted: in the order in which new ones get numbers.

    Raises:
        DatapathError: there are too many, with those that are leaving.
    """
    numbers = {address: number for number, address in enumerate(known)}
    # Of the same family: the rings of free numbers have room for so many of each.
    gone = [number for number in range(len(known)) if number not in present and known[number] not in wanted]
    fresh = len(known)
    for address in wanted:
        if address in numbers:
            continue
        number = next((one for one in gone if known[one].version == address.version), fresh)
        if number == fresh:
            fresh += 1
        else:
            gone.remove(number)
        numbers[address] = number
    if fresh > abi.RELAY_MAX:
        raise DatapathError(
            f"{fresh} relay addresses, with those at which flows are left or have been, are too many: "
            f"at most {abi.RELAY_MAX}; wait until they are gone, or end all calls: earshot datapath remove"
        )
    return {numbers[address]: address for address in wanted}
