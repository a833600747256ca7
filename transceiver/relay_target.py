# SPDX-License-Identifier: Apache-2.0
"""Where a relay or a backend is, and how each side knows the other: a unix socket, or TCP with mutual TLS."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from transceiver.errors import RelayAwayError
from transceiver.log import event
from transceiver.media import Endpoint

# A channel per attempt with connections of its own: gRPC's backoff, up to two minutes, stays out of it.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
ALL = "all:"
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]:/]+)):(\d{1,5})", re.ASCII)


class TargetError(ValueError):
    """The flags do not fit together.

    Attributes:
        flag: the one at fault.
    """

    def __init__(self, flag: str, message: str) -> None:
        super().__init__(f"{flag}: {message}")
        self.flag = flag


@dataclass(frozen=True)
class RelayTarget:
    """The address of a relay, or of another `side` that has flags of the same form.

    Over TCP, certificates are proven both ways; their files are read for each channel.

    Raises:
        TargetError: the flags do not fit together.
    """

    target: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""  # what the relay's certificate is held to, in place of the target's host
    insecure: bool = False
    side: str = "relay"

    def __post_init__(self) -> None:
        files = {
            f"--{self.side}-ca": self.ca,
            f"--{self.side}-certificate": self.certificate,
            f"--{self.side}-key": self.key,
        }
        unneeded = [flag for flag, path in files.items() if path]
        unneeded += [f"--{self.side}-server-name"] if self.server_name else []
        if self.target.startswith("unix:"):
            unneeded += [f"--{self.side}-insecure"] if self.insecure else []
            if unneeded:
                raise TargetError(
                    unneeded[0], "is for HOST:PORT alone; the socket's peer is known to the kernel"
                )
            return
        match = _HOST_PORT.fullmatch(self.target)
        if match is None or not 1 <= int(match[3]) <= 65535:
            raise TargetError(f"--{self.side}", f"{self.target!r} is neither unix:PATH nor HOST:PORT")
        if not self.insecure:
            for flag, path in files.items():
                if path is None:
                    raise TargetError(flag, f"is needed for {self.target}, for mutual TLS")
        elif unneeded:
            raise TargetError(unneeded[0], f"does not go with --{self.side}-insecure")
        elif not is_loopback(match[1] or match[2]):
            raise TargetError(f"--{self.side}-insecure", f"{self.target} is not a loopback address")

    def __str__(self) -> str:
        return self.target

    def channel(self) -> Any:
        """A new channel. Raises `RelayAwayError` if a file cannot be read now."""
        if self.ca is None or self.certificate is None or self.key is None:
            return grpc.aio.insecure_channel(self.target, options=_OPTIONS)
        try:
            ca, certificate, key = (path.read_bytes() for path in (self.ca, self.certificate, self.key))
        except OSError as error:
            raise RelayAwayError(f"cannot read {error.filename}: {error.strerror}") from None
        override = (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        return grpc.aio.secure_channel(self.target, credentials, options=(*_OPTIONS, *override))


@dataclass(frozen=True)
class RelayName:
    """A host's name, each of whose addresses is a relay: `all:HOST:PORT`."""

    host: str
    port: int
    like: RelayTarget  # what goes for all of them

    async def look_up(self) -> Sequence[RelayTarget]:
        """Where they are now; none if nobody can say."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            event(logging.WARNING, "relays_not_found", host=self.host, detail=error.strerror or str(error))
            return []
        addresses = {ip_address(info[4][0]) for info in found}
        ordered = sorted(addresses, key=lambda address: (address.version, int(address)))
        return [replace(self.like, target=str(Endpoint(address, self.port))) for address in ordered]


def targets_of(
    targets: Sequence[str],
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    server_name: str,
    insecure: bool,
    side: str,
) -> tuple[RelayTarget | RelayName, ...]:
    """Several of one side that share flags; those of TLS are for HOST:PORT alone, if there is one.

    Of a name (`all:HOST:PORT`) the certificates are held to HOST, unless `server_name` says otherwise.

    Raises:
        TargetError: the flags do not fit together, or one is named twice.
    """
    if len(set(targets)) != len(targets):
        raise TargetError(f"--{side}", "one is there twice")
    tls = (ca, certificate, key, server_name, insecure)
    mixed = len({target.startswith("unix:") for target in targets}) > 1

    def one(target: str) -> RelayTarget | RelayName:
        if mixed and target.startswith("unix:"):
            return RelayTarget(target, side=side)
        if not target.startswith(ALL):
            return RelayTarget(target, *tls, side=side)
        like = RelayTarget(target.removeprefix(ALL), *tls, side=side)
        host, _, port = like.target.rpartition(":")
        if not insecure:
            like = replace(like, server_name=server_name or host)
        return RelayName(host.strip("[]"), int(port), like)

    return tuple(map(one, targets))


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
