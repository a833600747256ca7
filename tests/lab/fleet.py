# SPDX-License-Identifier: Apache-2.0
"""Several relay hosts with one Redis, as a lab: each has a link to a hub, where Redis and transceivers are.

relay-1 --+
relay-2 --+-- hub (Redis, transceivers; forwards)
relay-3 --+
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab.host import Host
from tests.lab.netns import Lab
from tests.lab.redis import RedisServer
from tests.lab.services import BIN, start

VIP = "203.0.113.1"
VIP_PORT = 3478
REDIS = "10.99.0.1"
TRANSCEIVERS = "10.99.0.10"
REGION = "lab"
KEY_NUMBER = 3


class Fleet:
    """The hosts, and what runs there; Redis ends with the block, the relays with the lab."""

    def __init__(self, lab: Lab, relays: int, *redis_flags: str) -> None:
        """Redis runs; the relays do not yet."""
        self.lab = lab
        self.hub = lab.host("hub")
        self.hub.sysctl("net.ipv4.ip_forward", 1)
        self.hub.ip(f"address add {REDIS}/32 dev lo", f"address add {TRANSCEIVERS}/32 dev lo")
        self.redis = RedisServer(lab.dir, *redis_flags, host=self.hub, address=REDIS)
        self.redis.start()
        self.key = self.write_key("fleet.key")
        self.relays: dict[int, Host] = {}
        self.daemons: dict[int, subprocess.Popen[bytes]] = {}
        for number in range(1, relays + 1):
            self._add(number)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.stop()

    def _add(self, number: int) -> None:
        host = self.relays[number] = self.lab.host(f"relay-{number}", is_relay=True)
        self.lab.link(
            host,
            self.hub,
            [f"10.20.{number}.1/24"],
            [f"10.20.{number}.254/24"],
            name_a="uplink",
            name_b=host.name,
        )
        host.ip(f"route add default via 10.20.{number}.254", f"address add {VIP}/32 dev lo")

    def write_key(self, name: str) -> Path:
        """A file with another fleet key."""
        path = self.lab.dir / name
        path.write_text(secrets.token_hex(32))
        return path

    def target(self, number: int) -> str:
        """The gRPC target of a relay."""
        return f"unix:{self.socket(number)}"

    def pins(self, number: int) -> Path:
        return self.lab.pins / str(number)

    def socket(self, number: int) -> Path:
        return self.lab.dir / f"relay-{number}.sock"

    def start(self, number: int, *flags: str) -> None:
        """earshotd in a relay's host, with the directory; later flags win. Returns when it serves."""
        self.daemons[number] = start(
            self.lab,
            self.relays[number],
            str(BIN / "earshotd"),
            f"--name=relay-{number}",
            f"--region={REGION}",
            "--interface=uplink",
            f"--vip={VIP}:{VIP_PORT}",
            f"--relay-address=10.20.{number}.1",
            "--relay-ports=10000-10999",
            "--metrics-listen=127.0.0.1:9464",
            f"--grpc-socket={self.socket(number)}",
            f"--pin-path={self.pins(number)}",
            f"--fleet-key={KEY_NUMBER}={self.key}",
            f"--directory=redis://{REDIS}:6379/0",
            *flags,
            name=f"earshotd-{number}",
        )

    def start_all(self, *flags: str) -> None:
        """All of them, at the same time."""
        with ThreadPoolExecutor(len(self.relays)) as pool:
            list(pool.map(lambda number: self.start(number, *flags), self.relays))

    def route_clients(self, number: int) -> None:
        """What is sent to the VIP from the hub goes to this relay from now on."""
        self.hub.ip(f"route replace {VIP}/32 via 10.20.{number}.1")

    def kill(self, number: int) -> None:
        """The daemon at once; its program goes on."""
        daemon = self.daemons[number]
        daemon.kill()
        daemon.wait(10)

    def log(self, number: int) -> str:
        return self.lab.log(f"earshotd-{number}").read_text()

    def earshot(self, number: int, *argv: str) -> str:
        """What the operators' command says at a relay."""
        return self.relays[number].run(str(Path(sys.executable).parent / "earshot"), *argv)
