# SPDX-License-Identifier: Apache-2.0
"""Two relays of two regions between one client host and one transceiver host, as a lab. IPv4 alone.

             +-- (client) relay-1, region eu (transceiver) --+
    client --+                                               +-- transceiver
      |      +-- (client) relay-2, region us (transceiver) --+       |
      +--------------------------- signalling -----------------------+

Each relay has a VIP, a relay address and links of its own; nothing but its XDP program carries a packet.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from tests.lab.host import Host
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import BIN, endpoint, start
from tests.lab.topology import HTTP_PORT, SIGNALLING_TRANSCEIVER, VIP_PORT, join_for_signalling

AWAY_PORT = HTTP_PORT + 1  # of a second transceiver
MEDIA = "10.20.1.10"  # where the transceiver has its media
_CLIENT, _BEHIND = "198.51.{}.10", "10.20.{}.10"


@dataclass(frozen=True)
class RelayHost:
    """A relay's host, and what belongs to it."""

    host: Host
    number: int
    region: str
    vip: str
    target: str

    @property
    def address(self) -> str:
        """What the transceiver sees."""
        return f"10.20.{self.number}.1"


@dataclass(frozen=True)
class Pair:
    """The lab, with its hosts in place and nothing running yet."""

    lab: Lab
    client: Host
    transceiver: Host
    relays: tuple[RelayHost, RelayHost]

    def cut(self, relay: RelayHost) -> None:
        """From now on nothing of a client reaches that relay's VIP, and nothing comes from it."""
        self.client.nft(
            f"""table inet cut {{
                chain output {{ type filter hook output priority 0; ip daddr {relay.vip} drop; }}
                chain input {{ type filter hook input priority 0; ip saddr {relay.vip} drop; }}
            }}
            """
        )

    def mend(self) -> None:
        """Undoes `cut`."""
        self.client.run("nft", "delete", "table", "inet", "cut")


def two_relays(lab: Lab) -> Pair:
    client, transceiver = lab.host("client"), lab.host("transceiver")
    relays = tuple(
        RelayHost(
            lab.host(f"relay-{number}", is_relay=True),
            number,
            region,
            f"203.0.113.{number}",
            f"unix:{lab.dir}/relay-{number}.sock",
        )
        for number, region in ((1, "eu"), (2, "us"))
    )
    for relay in relays:
        number, host = relay.number, relay.host
        lab.link(client, host, [f"{_CLIENT.format(number)}/24"], [f"198.51.{number}.1/24"], name_b="client")
        lab.link(
            host,
            transceiver,
            [f"{relay.address}/24"],
            [f"{_BEHIND.format(number)}/24"],
            name_a="transceiver",
        )
        host.sysctl("net.ipv4.ip_forward", 0)
        host.ip(f"address add {relay.vip}/32 dev lo")
        client.ip(f"route add {relay.vip} via 198.51.{number}.1")
        # An ICE agent tries its other address by this link, too.
        host.ip(f"route add {_CLIENT.format(3 - number)} via {_CLIENT.format(number)}")
        if _BEHIND.format(number) != MEDIA:
            host.ip(f"route add {MEDIA} via {_BEHIND.format(number)}")
    join_for_signalling(lab, client, transceiver)
    return Pair(lab, client, transceiver, (relays[0], relays[1]))


def start_relay(pair: Pair, relay: RelayHost, *flags: str) -> subprocess.Popen[bytes]:
    """earshotd in that host; returns when it serves."""
    return start(
        pair.lab,
        relay.host,
        str(BIN / "earshotd"),
        f"--name={relay.host.name}",
        f"--region={relay.region}",
        *("--interface=client", "--interface=transceiver"),
        f"--vip={endpoint(relay.vip, VIP_PORT)}",
        f"--relay-address={relay.address}",
        f"--grpc-socket={relay.target.removeprefix('unix:')}",
        f"--pin-path={pair.lab.pins}/{relay.number}",
        "--metrics-listen=",
        *flags,
    )


def start_transceiver(pair: Pair, name: str, *flags: str, port: int = HTTP_PORT) -> subprocess.Popen[bytes]:
    """earshot-transceiver, attached to both; returns when it serves."""
    return start(
        pair.lab,
        pair.transceiver,
        str(BIN / "earshot-transceiver"),
        f"--name={name}",
        *(f"--relay={relay.target}" for relay in pair.relays),
        f"--http={endpoint(SIGNALLING_TRANSCEIVER, port)}",
        f"--media-address={MEDIA}",
        "--max-load=1",
        *flags,
    )


def media(relays: list[RelayClient]) -> list[int]:
    """Packets that each relay has brought to clients since it was started."""
    return [relay.counters()["forward_to_client"] for relay in relays]
