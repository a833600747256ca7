# SPDX-License-Identifier: Apache-2.0
"""What a transceiver process is told, once the flags have been checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from transceiver.calls import Limits
from transceiver.media import Endpoint, IPAddress
from transceiver.relay_target import RelayTarget
from transceiver.speech.remote import Policy


@dataclass(frozen=True)
class Web:
    """How HTTP is served."""

    page: bool = True
    origins: tuple[str, ...] = ("*",)  # that browsers may call from
    tokens: Path | None = None
    certificate: Path | None = None  # and key: HTTPS
    key: Path | None = None


@dataclass(frozen=True)
class Settings:
    """Of one process. A worker's `suffix` is the end of its stream's name and of its calls' ids."""

    relay: RelayTarget
    name: str
    http: Endpoint | Path
    web: Web
    media_addresses: tuple[IPAddress, ...]
    media_port: int
    backends: tuple[RelayTarget, ...]  # none: the echo
    policy: Policy
    limits: Limits
    log_level: str
    drain: float = 0.0  # seconds that calls may go on once the process is asked to end
    suffix: str = ""

    def of_worker(self, number: int, socket: Path) -> Settings:
        """What the worker of that number is told: a stream, a media port and an HTTP socket of its own."""
        return replace(
            self,
            http=socket,
            web=replace(self.web, certificate=None, key=None),
            media_port=self.media_port + number if self.media_port else 0,
            suffix=f".{number}",
        )
