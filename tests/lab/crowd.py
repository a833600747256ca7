# SPDX-License-Identifier: Apache-2.0
"""Hundreds of calls of one transceiver: registered, bound by authenticated requests, and then talking."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from earshot.relay.v1 import relay_pb2 as pb

from tests.lab.calls import DEADLINE, RETRY_AFTER, SOCKET_FAMILY, STUN_PWD, binding_request, new_ufrag
from tests.lab.relay_client import Attachment
from tests.lab.topology import VIP_PORT, Site
from tests.lab.traffic import Arm, Leg, Traffic, between, link_mac

CALLS = 200
FIRST_CLIENT_PORT = 20000
MEDIA_PORT = 40000
TRIES = 5


@dataclass(frozen=True)
class Member:
    """One call."""

    session: pb.Session
    family: int
    client: tuple[str, int]

    @property
    def ufrag(self) -> str:
        return str(self.session.credentials[0].ufrag)


class Crowd:
    """Calls that take turns in the two families."""

    def __init__(
        self,
        site: Site,
        calls: int = CALLS,
        media_port: int = MEDIA_PORT,
        client_port: int = FIRST_CLIENT_PORT,
    ) -> None:
        """`client_port`: the first call's client has it, and the others the next ones."""
        self.site = site
        self.media_port = media_port
        self._client_port = client_port
        self.members = [self._member(number) for number in range(calls)]
        self._others = 0
        self.relay_ends: list[tuple[str, int]] = []  # what the transceiver sees, by call

    def another(self) -> Member:
        """A call more, of the IPv4 family, that is not one of the members."""
        self._others += 2
        return self._member(len(self.members) + self._others)

    def _member(self, number: int) -> Member:
        family = (4, 6)[number % 2]
        addresses = self.site.addresses[family]
        session = pb.Session(
            session_id=f"s{self.media_port}-{number}",
            credentials=[pb.Credential(ufrag=new_ufrag(), pwd=STUN_PWD)],
            endpoints=[pb.Endpoint(address=addresses.transceiver, port=self.media_port)],
        )
        return Member(session, family, (addresses.client, self._client_port + number))

    def register(self, attachment: Attachment, *members: Member) -> pb.SnapshotResult:
        """All sessions, or those of some members, as a transceiver tells them when it attaches."""
        result = attachment.snapshot(*(member.session for member in members or self.members))
        refused = [one for one in result.results if one.code]
        assert not refused, refused
        return result

    def bind(self) -> None:
        """Each client sends Binding Requests until its transceiver has one."""
        self.relay_ends = []
        with contextlib.ExitStack() as stack:
            receivers = {
                family: stack.enter_context(self.site.transceiver.socket(SOCKET_FAMILY[family]))
                for family in (4, 6)
            }
            for family, receiver in receivers.items():
                receiver.bind((self.site.addresses[family].transceiver, self.media_port))
            for member in self.members:
                self.relay_ends.append(self._bind(member, receivers[member.family]))

    def _bind(self, member: Member, receiver: socket.socket) -> tuple[str, int]:
        request = binding_request(member.ufrag)
        with self.site.client.socket(SOCKET_FAMILY[member.family]) as client:
            client.bind(member.client)
            for last in (number == TRIES - 1 for number in range(TRIES)):
                receiver.settimeout(DEADLINE if last else RETRY_AFTER)
                client.sendto(request, (self.site.addresses[member.family].vip, VIP_PORT))
                with contextlib.suppress(TimeoutError):
                    while True:
                        data, source = receiver.recvfrom(2048)
                        if data == request:  # not an earlier one that was given up
                            return (source[0], source[1])
        raise AssertionError(f"no request of {member.client} has arrived")

    def legs(self) -> list[tuple[Leg, Leg]]:
        """What the calls send, and how it has to arrive."""
        made = []
        for member, relay_end in zip(self.members, self.relay_ends, strict=True):
            addresses = self.site.addresses[member.family]
            vip, media = (addresses.vip, VIP_PORT), (addresses.transceiver, self.media_port)
            made.append(
                (
                    Leg((member.client, vip), (relay_end, media)),
                    Leg((media, relay_end), (vip, member.client)),
                )
            )
        return made


@contextlib.contextmanager
def talking(crowd: Crowd, rate: float) -> Iterator[Traffic]:
    """The traffic of a crowd that is bound, on a two-armed site."""
    site = crowd.site
    client = Arm(site.client, site.client_interface, link_mac(site.relay, site.client.name))
    transceiver = Arm(site.transceiver, site.relay.name, link_mac(site.relay, site.transceiver.name))
    with between(client, transceiver, rate) as traffic:
        traffic.connect(crowd.legs())
        yield traffic
