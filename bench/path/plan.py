# SPDX-License-Identifier: Apache-2.0
"""Whose packets go where: the addresses of each flow, before and behind each kind of relay.

Flow number n is of client `client + n`, port `CLIENT_PORTS + (n & 0x3fff)`, as in bench/tables.py. What a
relay makes of it is a form, too: address and port as far as masks let the number be counted onto
them. So the generator can make any flow's packets, and the sinks can check any packet, without
looking anything up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address

from bench.tables import BACKEND_PORT, BACKENDS, CLIENT_PORTS, PLANS, PORT_MIN, VIP_PORT
from control.addresses import IPAddress

ALL = 0xFFFF_FFFF
# What the blind forwarder makes of a client's network.
BEHIND = {4: ip_address("12.0.0.0"), 6: ip_address("fd00:40::")}
CHANNEL = 0x4000


@dataclass(frozen=True)
class End:
    """One end of every flow (struct end of wire.h)."""

    address: IPAddress
    port: int
    address_mask: int = 0
    port_mask: int = 0

    def of(self, flow: int) -> tuple[IPAddress, int]:
        return self.address + (flow & self.address_mask), self.port + (flow & self.port_mask)

    def pack(self) -> bytes:
        address = self.address.packed.rjust(16, b"\0")
        return address + struct.pack("=IHH", self.address_mask, self.port, self.port_mask)


@dataclass(frozen=True)
class Way:
    """Packets of one direction: as they are sent, and as they are due at the other side.

    sent_tag: stands between UDP and RTP when sent; due_tag_bytes: how many do at the sink.
    any_port: the source port at the sink is the relay's choice.
    """

    sent: tuple[End, End]  # source, destination
    due: tuple[End, End]
    sent_tag: bytes = b""
    due_tag_bytes: int = 0
    any_port: bool = False


@dataclass(frozen=True)
class Forms:
    """Both directions of every flow."""

    up: Way
    down: Way


def _through(family: int, near: End, backend: End) -> Forms:
    """near: what transceivers see of a client."""
    clients, vip = clients_end(family), End(PLANS[family].vip, VIP_PORT)
    return Forms(Way((clients, vip), (near, backend)), Way((backend, near), (vip, clients)))


def clients_end(family: int) -> End:
    return End(PLANS[family].client, CLIENT_PORTS, ALL, 0x3FFF)


def backends_end(family: int) -> End:
    """64 transceivers, each with one port."""
    return End(PLANS[family].backend, BACKEND_PORT, BACKENDS - 1)


def direct(family: int) -> Forms:
    """No relay at all: things arrive as they were sent."""
    clients, backends = clients_end(family), backends_end(family)
    return Forms(
        Way((clients, backends), (clients, backends)),
        Way((backends, clients), (backends, clients)),
    )


def blind(family: int) -> Forms:
    """One transceiver; a client's network is exchanged for another."""
    near = replace(clients_end(family), address=BEHIND[family])
    return _through(family, near, replace(backends_end(family), address_mask=0))


def port_each(family: int) -> Forms:
    """One relay port for each flow."""
    return _through(family, End(PLANS[family].relay, PORT_MIN, 0, 0xFFFF), backends_end(family))


def one_port(family: int) -> Forms:
    """One relay port for all, and a transceiver's port for each flow, by which its way back is known."""
    backend = replace(backends_end(family), port_mask=0xFFFF)
    return _through(family, End(PLANS[family].relay, PORT_MIN), backend)


def turn(family: int, rtp_bytes: int) -> Forms:
    """ChannelData towards clients; relay ports are the server's choice."""
    forms = _through(family, End(PLANS[family].relay, 0), backends_end(family))
    tag = struct.pack("!HH", CHANNEL, rtp_bytes)
    return Forms(replace(forms.up, sent_tag=tag, any_port=True), replace(forms.down, due_tag_bytes=len(tag)))
