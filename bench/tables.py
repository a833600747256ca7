# SPDX-License-Identifier: Apache-2.0
"""A loaded relay with as many flows as asked for, entered into its maps directly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import ip_address

import numpy as np

from control import abi, carry, fitting, flow_index, libbpf, loader, pinned
from control.addresses import Endpoint, IPAddress, to_bytes
from control.datapath import Datapath
from control.foreign import FlowEntering
from control.hmac_keys import key_states
from control.hostlinks import HostLink
from control.layout import Layout
from control.libbpf import Array
from control.places import Place
from control.records import write_places
from fleet.key import FleetKey
from transceiver.routable import NumberedKey

LO = 1  # where a test run's packets come from
BACKENDS = 64
BACKEND_PORT = 5000
VIP_PORT = 443
CLIENT_PORTS = 0x4000
PORT_MIN = 1024
UFRAG, PWD, SESSION = b"alice000", b"a-password-of-22-bytes", 7
TO_CLIENTS, TO_BACKENDS = 1, 2
FLEET_KEY, FLEET_NUMBER = NumberedKey(1, bytes(32)), 1


@dataclass(frozen=True)
class Plan:
    """Addresses of number 0; the others count up from them."""

    vip: IPAddress
    relay: IPAddress
    backend: IPAddress
    client: IPAddress


PLANS = {
    4: Plan(*map(ip_address, ("203.0.113.1", "10.20.0.1", "10.30.0.0", "11.0.0.0"))),
    6: Plan(*map(ip_address, ("2001:db8:f::1", "fd00:20::1", "fd00:30::", "2001:db8:c::"))),
}


@dataclass(frozen=True)
class Shape:
    """So many relay addresses, each with so many ports from PORT_MIN on."""

    family: int
    relays: int
    span: int

    @property
    def flows(self) -> int:
        return self.relays * self.span

    @property
    def layout(self) -> Layout:
        return Layout(PORT_MIN, PORT_MIN + self.span - 1, self.relays)

    def records(self) -> Array:
        """The numbers of all records."""
        return np.arange(self.flows, dtype=np.uint32)


@dataclass(frozen=True)
class Budget:
    """A token bucket (bpf/budget.h).

    interval: nanoseconds a token.
    burst: nanoseconds of tokens that may be saved beside the one that is taken.
    """

    interval: int
    burst: int

    @classmethod
    def of(cls, tokens: int, seconds: float) -> Budget:
        interval = int(seconds * 1e9 / tokens)
        return cls(interval, interval * (tokens - 1))


PLENTY = Budget(1, 1 << 60)  # kept, and never spent


@dataclass(frozen=True)
class Budgets:
    """All are kept: what keeping them costs belongs to what is measured."""

    source: Budget = PLENTY
    binding: Budget = PLENTY
    session: Budget = PLENTY


KEPT = Budgets()


class Table:
    """The relay, its maps just large enough for a shape."""

    def __init__(self, shape: Shape, budgets: Budgets = KEPT, *, quality: bool = False) -> None:
        """`quality`: whether the relay measures that of its flows."""
        self.shape = shape
        layout = shape.layout
        with libbpf.BpfObject(pinned.object_path()) as program:
            for name, entries in (
                ("sessions_v1", 16),
                ("backends_v1", BACKENDS + 1),
                *((name, shape.flows if quality else 1) for name in (carry.QUALITY, carry.QUALITY_MORE)),
                *layout.sizes().items(),
            ):
                program.set_max_entries(name, entries)
            settings = fitting.program_settings(layout)
            settings["quality"] = quality
            for name, budget in vars(budgets).items():
                settings[f"{name}_interval"], settings[f"{name}_burst"] = budget.interval, budget.burst
            program.set_rodata(settings.tobytes())
            program.load()
            self.datapath = Datapath({name: os.dup(program.map_fd(name)) for name in program.map_names()})
            self.program_fd = os.dup(program.program_fd(loader.PROGRAM))
            self.entering = FlowEntering(os.dup(program.program_fd(loader.ENTERING)))
        plan = PLANS[shape.family]
        relays = {number: plan.relay + number for number in range(shape.relays)}
        self.datapath.set_addresses({0: Endpoint(plan.vip, VIP_PORT)}, relays)
        self.datapath.lay_out(layout)
        self._put_hops()
        self._put_backends()

    def close(self) -> None:
        self.datapath.close()
        self.entering.close()
        os.close(self.program_fd)

    def fill(self, backends: int = BACKENDS) -> None:
        """A live flow in each record: of client number `record`, to backend `record % backends`."""
        records = self.shape.records()
        clients = addresses(PLANS[self.shape.family].client, records)
        ports = CLIENT_PORTS + (records & 0x3FFF)
        flows = np.zeros(len(records), abi.FLOW)
        flows["client_addr"], flows["client_port"] = clients, ports
        flows["backend"] = records % backends + 1
        flows["client_hop"] = TO_CLIENTS
        flows["session"] = SESSION
        flows["state"] = 1 << abi.FLOW_STATE_BITS | abi.FlowState.LIVE
        # No sum is right in these packets, so none needs to come out right.
        flows["ip_delta"] = flows["udp_delta"] = 0x1234
        self.datapath.flows[records] = flows
        self.datapath.index[:] = 0
        flow_index.enter(self.datapath.index, self.datapath.flows, records, self.datapath.layout)

    def empty(self) -> None:
        """No flow at all, every record free, counters as they are."""
        self.datapath.flows[:] = np.zeros(1, abi.FLOW)[0]
        self.datapath.index[:] = 0
        self.datapath.lay_out(self.datapath.layout)

    def let_bind(self, clients: HostLink) -> None:
        """What binding needs besides: the session, free hops, and the link of the clients."""
        self.put_session(UFRAG, PWD, SESSION)
        self.datapath.set_fleet_keys({FLEET_KEY.number: FleetKey.of(FLEET_KEY.secret)})
        write_places(self.datapath.fleet_owners, {FLEET_NUMBER: Place(FLEET_NUMBER, 0, (1, 1))})
        link = np.array([(clients.mac, clients.mtu)], abi.LINK_INFO)
        self.datapath.links.put(np.uint32(clients.ifindex).tobytes(), link.tobytes())
        for number in range(8, 16):
            self.datapath.free_hops.push(number)
        self.empty()

    def put_session(self, ufrag: bytes, pwd: bytes | None, number: int) -> None:
        """Of the first backend. None: its transceiver keeps the pwd."""
        keys = np.array([(ufrag,)], abi.UFRAG_KEY)
        values = np.zeros(1, abi.SESSION)
        values["number"], values["backend"] = number, (1, 1)
        if pwd is not None:
            values["flags"] = abi.SessionFlag.HAS_PWD
            values["inner"], values["outer"] = key_states([pwd])
        self.datapath.put_sessions(keys, values)

    def _put_hops(self) -> None:
        hops = self.datapath.hops
        for number in (TO_CLIENTS, TO_BACKENDS):
            hops["dmac"][number] = np.void(b"\x02\0\0\0\0" + bytes([number]))
            hops["smac"][number] = np.void(b"\x02\0\0\0\x01" + bytes([number]))
            hops["mtu"][number], hops["ifindex"][number] = 1500, LO
            hops["resolved"][number] = abi.HopState.RESOLVED

    def _put_backends(self) -> None:
        backends = self.datapath.backends[1:]
        backends["addr"] = addresses(PLANS[self.shape.family].backend, np.arange(BACKENDS))
        backends["port"], backends["hop"] = BACKEND_PORT, TO_BACKENDS


def addresses(base: IPAddress, numbers: Array) -> Array:
    """Addresses counted up from a base, as the maps hold them."""
    raw = np.tile(np.frombuffer(to_bytes(base), np.uint8), (len(numbers), 1))
    last = int.from_bytes(base.packed[-4:], "big") + numbers.astype(np.uint32)
    raw[:, 12:] = last.astype(">u4").view(np.uint8).reshape(-1, 4)
    return raw.view("V16").ravel()
