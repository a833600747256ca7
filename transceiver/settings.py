# SPDX-License-Identifier: Apache-2.0
"""What a transceiver process is told, once the flags have been checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from earshot.relay.v1 import relay_pb2 as pb

from transceiver.calls import Limits
from transceiver.media import Endpoint, IPAddress
from transceiver.peers import Known
from transceiver.relay_target import RelayName, RelayTarget
from transceiver.routable import Mint, NumberedKey
from transceiver.speech.remote import Policy


@dataclass(frozen=True)
class Web:
    """How HTTP is served."""

    page: bool = True
    origins: tuple[str, ...] = ("*",)  # that browsers may call from
    tokens: Path | None = None
    certificate: Path | None = None  # and key: HTTPS
    key: Path | None = None
    public_url: str = ""  # before the paths of sessions, as clients are told them
    peers: Known = field(default_factory=Known)


@dataclass(frozen=True)
class Fleet:
    """What routable ufrags are made of: the key in use, and the number of this process in the fleet."""

    key: NumberedKey
    number: int

    def mint(self) -> Mint:
        return Mint(self.key, self.number)

    def place(self, endpoints: Sequence[Endpoint]) -> pb.Routable:
        """What relays are told of it."""
        return pb.Routable(
            number=self.number,
            endpoints=[pb.Endpoint(address=str(one.address), port=one.port) for one in endpoints],
        )


@dataclass(frozen=True)
class Place:
    """Where it is, and which VIPs clients are told (`ingresses`)."""

    region: str = ""
    regions: Path | None = None  # the file
    candidates: int = 2  # VIPs of one address family, at most


@dataclass(frozen=True)
class Settings:
    """Of one process. A worker's `suffix` is the end of its stream's name and of its calls' ids."""

    relays: tuple[RelayTarget | RelayName, ...]
    name: str
    http: Endpoint | Path
    web: Web
    media_addresses: tuple[IPAddress, ...]
    media_port: int
    backends: tuple[RelayTarget, ...]  # none: the echo
    policy: Policy
    limits: Limits
    log_level: str
    fleet: Fleet | None = None  # None: random ufrags
    drain: float = 0.0  # seconds that calls may go on once the process is asked to end
    move: bool = True  # whether clients are told then to call elsewhere
    suffix: str = ""
    place: Place = Place()

    def of_worker(self, number: int, socket: Path) -> Settings:
        """What the worker of that number is told: a stream, a media port and an HTTP socket of its own."""
        return replace(
            self,
            http=socket,
            web=replace(self.web, certificate=None, key=None),
            media_port=self.media_port + number if self.media_port else 0,
            fleet=replace(self.fleet, number=self.fleet.number + number) if self.fleet else None,
            suffix=f".{number}",
        )
