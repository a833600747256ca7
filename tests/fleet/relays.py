# SPDX-License-Identifier: Apache-2.0
"""What the relays of a fleet have, asked of each of them."""

from __future__ import annotations

from contextlib import ExitStack

from earshot.relay.v1 import relay_pb2 as pb

from tests.lab.calls import wait_for
from tests.lab.fleet import TRANSCEIVERS, Fleet
from tests.lab.relay_client import Attachment, RelayClient

PWD = "a" * 22
RELAYS = (1, 2, 3)
FLAGS = ("--grace-seconds=4", "--directory-grace-seconds=6")
SECONDS = 40.0


def session(name: str, port: int = 4000, pwd: str = PWD) -> pb.Session:
    return pb.Session(
        session_id=name,
        credentials=[pb.Credential(ufrag=f"{name}ufrag", pwd=pwd)],
        endpoints=[pb.Endpoint(address=TRANSCEIVERS, port=port)],
    )


class Relays:
    """What the relays have, asked of each."""

    def __init__(self, fleet: Fleet, stack: ExitStack) -> None:
        self.clients = {number: stack.enter_context(RelayClient(fleet.target(number))) for number in RELAYS}
        self.stack = stack

    def attach(self, number: int, transceiver: str) -> Attachment:
        return self.stack.enter_context(self.clients[number].attach(transceiver))

    def have(self, number: int, transceiver: str) -> set[str]:
        return {one.session_id for one in self.clients[number].sessions() if one.transceiver == transceiver}

    def ports(self, number: int, name: str) -> list[int]:
        (found,) = (one for one in self.clients[number].sessions() if one.session_id == name)
        return [end.port for end in found.endpoints]

    def agree(self, transceiver: str, *names: str, at: tuple[int, ...] = RELAYS) -> None:
        """Returns when all relays have these sessions of a transceiver and no others."""
        wait_for(
            lambda: all(self.have(number, transceiver) == set(names) for number in at),
            f"{names} of {transceiver} at {at}",
            SECONDS,
        )
