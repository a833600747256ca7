# SPDX-License-Identifier: Apache-2.0
"""A group of relays as a lab: one VIP, a router that spreads clients, one network towards transceivers.

                    +-- relay-1 --+
    client -- router+-- relay-2 --+fabric -- transceiver
                    +-- relay-3 --+
                          |
                        store (Redis)

The router hashes addresses and ports (ECMP), and leaves out relays whose link is down. On the fabric, a
bridge, every relay has an address of its own; the fabric learns from announcements who has which.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from grpc_health.v1 import health_pb2
from redis import Redis

from control import abi
from control.cli.options import pinned_maps
from tests.lab.calls import wait_for
from tests.lab.crowd import Crowd
from tests.lab.host import Host
from tests.lab.netns import Lab
from tests.lab.redis import RedisServer
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.services import BIN, READY, START_TIMEOUT, endpoint
from tests.lab.topology import IPV4, IPV6, VIP_PORT, Addresses, Site
from tests.lab.traffic import RATE, Arm, Traffic, between, link_mac

INNER, OUTER, STORE = "fabric", "router", "store"
TRANSCEIVER4, TRANSCEIVER6 = "10.30.0.10", "fd00:30::10"
PORTS = "20000-20999"
KEY = "7" * 64
HELD = "event=relay_addresses_held "


@dataclass
class Member:
    """One relay of the group."""

    lab: Lab
    number: int
    host: Host
    flags: list[str]
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def addresses(self) -> tuple[str, str]:
        return relay_addresses(self.number)

    @property
    def pins(self) -> Path:
        return self.lab.pins / self.name

    @property
    def socket(self) -> str:
        return f"{self.lab.dir}/{self.name}.sock"

    def start(self, *more: str) -> None:
        """Its daemon; returns when it serves."""
        self.begin(*more)()

    def begin(self, *more: str) -> Callable[[], None]:
        """The same, in two steps: what is returned waits."""
        log = self.lab.log(self.log_name)
        before = log.stat().st_size if log.exists() else 0
        argv = (str(BIN / "earshotd"), *self.flags, *more)
        self.daemon = daemon = self.lab.popen(self.host, *argv, log=self.log_name)

        def is_ready() -> bool:
            said = log.read_bytes()[before:].decode(errors="replace")
            assert daemon.poll() is None, said[-3000:]
            return READY in said

        return lambda: wait_for(is_ready, f"{self.name} serves", START_TIMEOUT)

    def tell(self, number: signal.Signals) -> None:
        assert self.daemon is not None
        os.kill(self.daemon.pid, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(number)
        self.daemon.wait(20)

    def set_links(self, state: str, *names: str) -> None:
        """`up` or `down`. Routes go with a link, and come back with it."""
        lines = [f"link set dev {name} {state}" for name in names]
        if state == "up" and INNER in names:
            lines += _inner_routes()
        if state == "up" and OUTER in names:
            lines += _default_routes(self.number)
        self.host.ip(*lines)

    def earshot(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """The command line, in the relay's host."""
        return subprocess.run(
            self.host.command(str(BIN / "earshot"), *argv),
            env={**os.environ, "EARSHOT_PIN_PATH": str(self.pins), "EARSHOT_GRPC_SOCKET": self.socket},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def is_ready(self) -> bool:
        """Whether its health says that the router should send it packets."""
        with RelayClient(f"unix:{self.socket}") as client:
            return bool(client.health() == health_pb2.HealthCheckResponse.SERVING)

    @property
    def log_name(self) -> str:
        return f"earshotd-{self.number}"

    def log(self) -> str:
        return self.lab.log(self.log_name).read_text()

    def live_flows(self) -> int:
        """As its maps have it, all of the group."""
        with pinned_maps(self.pins) as datapath:
            return int(np.count_nonzero(datapath.states() == abi.FlowState.LIVE))

    def owns(self) -> int:
        """Those of them that it has bound itself."""
        with pinned_maps(self.pins) as datapath:
            own = [number for number in datapath.present if number not in datapath.foreign]
            return sum(len(datapath.flows_at(number)) for number in own)


@dataclass
class Group:
    """The lab, its relays without daemons yet, and Redis, which serves."""

    lab: Lab
    site: Site
    router: Host
    fabric: Host
    members: list[Member]
    redis: RedisServer

    def others(self, member: Member) -> list[Member]:
        """All relays but one."""
        return [one for one in self.members if one is not member]

    def start(self, *more: str) -> None:
        """All relays' daemons; returns when they serve."""
        for wait in [member.begin(*more) for member in self.members]:
            wait()

    def spread(self, *members: Member) -> None:
        """The router sends clients to these relays and no others."""
        hops4 = " ".join(f"nexthop via {_outer4(one.number)}.1 dev {one.name}" for one in members)
        hops6 = " ".join(f"nexthop via {_outer6(one.number)}::1 dev {one.name}" for one in members)
        self.router.ip(f"route replace {IPV4.vip} {hops4}", f"route replace {IPV6.vip} {hops6}")

    @contextmanager
    def store(self) -> Iterator[Any]:
        """A client of Redis. The calling thread is in its host meanwhile."""
        with self.lab.hosts[STORE].inside(), Redis(port=self.redis.port) as client:
            yield client

    @property
    def home(self) -> Member:
        """The relay that transceivers are attached to; the others know their sessions by the directory."""
        return self.members[-1]

    @contextmanager
    def registered(self, crowd: Crowd, name: str = "crowd") -> Iterator[Attachment]:
        """A transceiver of that name is attached, and all relays that run know the sessions of a crowd."""
        with RelayClient(f"unix:{self.home.socket}") as client, client.attach(name) as attachment:
            crowd.register(attachment)
            wanted = {member.session.session_id for member in crowd.members}
            for member in self.members:
                if member.daemon is not None and member.daemon.poll() is None:
                    with RelayClient(f"unix:{member.socket}") as relay:
                        wait_for(
                            lambda relay=relay: wanted <= {one.session_id for one in relay.sessions()},  # type: ignore[misc]
                            f"{member.name} knows all sessions",
                            20,
                        )
            yield attachment

    @contextmanager
    def talking(self, crowd: Crowd, rate: float = RATE) -> Iterator[Traffic]:
        """Traffic of a crowd that is bound."""
        client = Arm(self.site.client, "router", link_mac(self.router, "client"))
        transceiver = Arm(self.site.transceiver, "fabric", link_mac(self.fabric, "transceiver"))
        with between(client, transceiver, rate) as traffic:
            traffic.connect(crowd.legs())
            yield traffic

    def wait_for_flows(self, count: int, *members: Member) -> None:
        """Returns when these relays, or all, know so many."""
        for member in members or self.members:
            wait_for(
                lambda member=member: member.live_flows() == count,  # type: ignore[misc]
                f"{member.name} knows {count} flows",
                20,
            )


def relay_addresses(number: int) -> tuple[str, str]:
    return f"10.20.0.{number}", f"fd00:20::{number}"


@contextmanager
def group_of(relays: int, *flags: str) -> Iterator[Group]:
    """A group of so many relays, whose daemons have these flags besides."""
    with Lab() as lab, ExitStack() as stack:
        client, transceiver = lab.host("client"), lab.host("transceiver")
        router, fabric, store = lab.host("router"), lab.host("fabric"), lab.host(STORE)
        for host in (router, fabric):
            for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                host.sysctl(name, 1)
        for family in ("ipv4", "ipv6"):
            router.sysctl(f"net.{family}.fib_multipath_hash_policy", 1)
            for scope in ("all", "default"):
                router.sysctl(f"net.{family}.conf.{scope}.ignore_routes_with_linkdown", 1)
        lab.link(
            client,
            router,
            [f"{IPV4.client}/24", f"{IPV6.client}/64"],
            ["198.51.100.1/24", "2001:db8:c::1/64"],
        )
        client.ip("route add default via 198.51.100.1", "route add default via 2001:db8:c::1")
        lab.link(
            transceiver,
            fabric,
            [f"{TRANSCEIVER4}/24", f"{TRANSCEIVER6}/64"],
            ["10.30.0.1/24", "fd00:30::1/64"],
        )
        transceiver.ip("route add default via 10.30.0.1", "route add default via fd00:30::1")
        fabric.ip(
            "link add name inside type bridge",
            "link set dev inside up",
            "address add 10.20.0.254/24 dev inside",
            "address add fd00:20::fe/64 dev inside nodad",
        )
        key = lab.dir / "fleet.key"
        key.write_text(KEY + "\n")
        members = []
        for number in range(1, relays + 1):
            host = lab.host(f"relay-{number}", is_relay=True)
            for scope in ("all", "default"):
                host.sysctl(f"net.ipv6.conf.{scope}.keep_addr_on_down", 1)
            outer4, outer6 = _outer4(number), _outer6(number)
            lab.link(
                host,
                router,
                [f"{outer4}.1/24", f"{outer6}::1/64"],
                [f"{outer4}.254/24", f"{outer6}::fe/64"],
                name_a=OUTER,
            )
            mine = relay_addresses(number)
            # The host's own address first: the kernel asks for neighbours in its name. From who asked in the
            # relay address's, these would learn where that is.
            inner = [f"10.20.0.{100 + number}/24", f"{mine[0]}/24", f"{mine[1]}/64"]
            lab.link(host, fabric, inner, name_a=INNER)
            # A switch that floods what it has no port for would bring a dead relay's packets to the others.
            fabric.ip(
                f"link set dev {host.name} master inside",
                f"link set dev {host.name} type bridge_slave flood off",
            )
            lab.link(host, store, [f"10.9.{number}.1/24"], [f"10.9.{number}.254/24"])
            host.ip(
                *_default_routes(number),
                *_inner_routes(),
                f"address add {IPV4.vip}/32 dev lo",
                f"address add {IPV6.vip}/128 dev lo nodad",
            )
            others = [
                address
                for other in range(1, relays + 1)
                if other != number
                for address in relay_addresses(other)
            ]
            argv = [
                f"--name={host.name}",
                f"--interface={OUTER}",
                f"--interface={INNER}",
                f"--vip={endpoint(IPV4.vip, VIP_PORT)}",
                f"--vip={endpoint(IPV6.vip, VIP_PORT)}",
                *(f"--relay-address={address}" for address in mine),
                *(f"--group-relay-address={address}" for address in others),
                f"--relay-ports={PORTS}",
                "--grace-seconds=3",
                f"--fleet-key=1={key}",
                f"--directory=redis://10.9.{number}.254:6379/0",
                f"--grpc-socket={lab.dir}/{host.name}.sock",
                f"--pin-path={lab.pins / host.name}",
                *flags,
            ]
            members.append(Member(lab, number, host, argv))
        redis = RedisServer(lab.dir, host=store, address="0.0.0.0")
        stack.callback(redis.stop)
        redis.start()
        addresses = {
            4: Addresses(IPV4.client, IPV4.vip, members[0].addresses[0], TRANSCEIVER4),
            6: Addresses(IPV6.client, IPV6.vip, members[0].addresses[1], TRANSCEIVER6),
        }
        site = Site(lab, client, members[0].host, transceiver, "router", (OUTER, INNER), addresses)
        made = Group(lab, site, router, fabric, members, redis)
        made.spread(*members)
        yield made


@contextmanager
def serving_group(relays: int, *flags: str) -> Iterator[Group]:
    """The same, whose relays serve, have their addresses, and take over each other's."""
    with group_of(relays, "--group-takeover", *flags) as made:
        made.start()
        wait_for(lambda: all(HELD in member.log() for member in made.members), "leases", START_TIMEOUT)
        yield made


def _outer4(number: int) -> str:
    return f"198.51.{100 + number}"


def _outer6(number: int) -> str:
    return f"2001:db8:10{number}"


def _default_routes(number: int) -> list[str]:
    return [
        f"route replace default via {_outer4(number)}.254",
        f"route replace default via {_outer6(number)}::fe",
    ]


def _inner_routes() -> list[str]:
    return ["route replace 10.30.0.0/24 via 10.20.0.254", "route replace fd00:30::/64 via fd00:20::fe"]
