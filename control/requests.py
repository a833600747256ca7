# SPDX-License-Identifier: Apache-2.0
"""What a transceiver may ask for: its messages, checked field by field.

Everything here is decided from the message and the relay's own addresses alone; what depends on
the other sessions is decided in control/sessions.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from control import abi
from control.addresses import Endpoint, IPAddress, IPNetwork
from control.errors import EarshotError
from control.unicast import unicast_fault
from fleet.region import FORM, is_region

if TYPE_CHECKING:  # whoever only looks at maps has no use of it, and it is slow to load
    from earshot.relay.v1 import relay_pb2 as pb

# One ufrag, two in an ICE restart; more only if restarts overtake each other.
MAX_CREDENTIALS = 4
# What the record of a session has room for.
CLOCK_RATE_MAX = ((1 << abi.CLOCK_BITS) - 1) * abi.CLOCK_UNIT
# Keeps `expires`, in seconds since boot, far from the end of its 32 bits.
MAX_TTL_SECONDS = 30 * 86400

_UFRAG = re.compile(rf"[A-Za-z0-9+/]{{4,{abi.UFRAG_MAX}}}")  # ice-char, RFC 8839, 5.4
_PWD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_SESSION_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{abi.SESSION_ID_MAX}}}")
_TRANSCEIVER = re.compile(rf"[A-Za-z0-9._:-]{{1,{abi.OWNER_NAME_MAX}}}")


class Code(IntEnum):
    """Those of google.rpc.Code that are used here."""

    OK = 0
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class RequestError(EarshotError):
    """A request, or one operation of a batch, is refused.

    Attributes:
        code: why, as the caller's program sees it.
        field: the path of the field at fault, such as ``credentials[0].ufrag``; may be empty.
        message: why, for people. Never holds a pwd.
    """

    def __init__(self, code: Code, message: str, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.code = code
        self.message = message
        self.field = field


@dataclass(slots=True)  # not frozen: making it would take three times as long, a thousand times a batch
class Credential:
    """A server ufrag, and its pwd where the transceiver shares it. repr() leaves the pwd out."""

    ufrag: str
    pwd: bytes

    def __repr__(self) -> str:
        return f"Credential(ufrag={self.ufrag!r})"


@dataclass(slots=True)  # likewise
class SessionRequest:
    """A session as a transceiver wants it.

    `endpoints` holds those of the families that the relay serves, by the path of their field.
    """

    session_id: str
    credentials: tuple[Credential, ...]
    endpoints: Mapping[str, Endpoint]
    ttl_seconds: int
    fingerprint_optional: bool = False
    rtp_clock_rate: int = 0  # Hz; 0: the usual one


@dataclass(frozen=True, slots=True)
class LocalAddresses:
    """What of the relay itself matters for the checks."""

    own: Collection[IPAddress]
    families: Collection[int]

    @classmethod
    def of(cls, vips: Sequence[Endpoint], relays: Iterable[IPAddress]) -> LocalAddresses:
        """From the relay's VIPs and relay addresses."""
        return cls(
            own=frozenset(relays) | {vip.address for vip in vips},
            families=frozenset(vip.address.version for vip in vips),
        )


def _invalid(field: str, message: str) -> RequestError:
    return RequestError(Code.INVALID_ARGUMENT, message, field)


def check_hello(hello: pb.Hello) -> None:
    """Raises RequestError if a transceiver cannot have that name, or be in such a region."""
    if not _TRANSCEIVER.fullmatch(hello.transceiver):
        raise _invalid("hello.transceiver", f"is not 1 to {abi.OWNER_NAME_MAX} of A-Za-z0-9._:-")
    if hello.region and not is_region(hello.region):
        raise _invalid("hello.region", f"is not {FORM}")


class EndpointChecks:
    """Checks endpoints, and each set of them once: the sessions of a batch name the same few.

    Sessions that name the same endpoints get the same object.
    """

    def __init__(self, local: LocalAddresses, prefixes: Sequence[IPNetwork] | None = None) -> None:
        """`prefixes`: where endpoints may lie; None: anywhere."""
        self._local = local
        self._prefixes = prefixes
        self._checked: dict[tuple[bytes, ...], Mapping[str, Endpoint]] = {}

    def check(self, endpoints: Sequence[pb.Endpoint]) -> Mapping[str, Endpoint]:
        """Those of the families that the relay serves. Raises RequestError."""
        key = tuple([endpoint.SerializeToString() for endpoint in endpoints])
        known = self._checked.get(key)
        if known is None:
            known = self._checked[key] = _check_endpoints(endpoints, self._local, self._prefixes)
        return known


def check_session(session: pb.Session, endpoints: EndpointChecks) -> SessionRequest:
    """The session that a message describes.

    Args:
        endpoints: checks those of this session, and has checked those of others.

    Raises:
        RequestError: with the first field at fault.
    """
    if not _SESSION_ID.fullmatch(session.session_id):
        raise _invalid("session_id", f"is not 1 to {abi.SESSION_ID_MAX} of A-Za-z0-9._-")
    if session.ttl_seconds > MAX_TTL_SECONDS:
        raise _invalid("ttl_seconds", f"is more than {MAX_TTL_SECONDS}")
    if session.rtp_clock_rate % abi.CLOCK_UNIT or session.rtp_clock_rate > CLOCK_RATE_MAX:
        raise _invalid("rtp_clock_rate", f"is not a multiple of {abi.CLOCK_UNIT} up to {CLOCK_RATE_MAX}")
    return SessionRequest(
        session_id=session.session_id,
        credentials=_check_credentials(session.credentials),
        endpoints=endpoints.check(session.endpoints),
        ttl_seconds=session.ttl_seconds,
        fingerprint_optional=session.fingerprint_optional,
        rtp_clock_rate=session.rtp_clock_rate,
    )


def _check_credentials(credentials: Sequence[pb.Credential]) -> tuple[Credential, ...]:
    if not 1 <= len(credentials) <= MAX_CREDENTIALS:
        raise _invalid("credentials", f"{len(credentials)} of them; 1 to {MAX_CREDENTIALS} are allowed")
    checked: dict[str, Credential] = {}
    for index, credential in enumerate(credentials):
        ufrag, pwd = credential.ufrag, credential.pwd
        if not _UFRAG.fullmatch(ufrag):
            raise _invalid(f"credentials[{index}].ufrag", f"is not 4 to {abi.UFRAG_MAX} of A-Za-z0-9+/")
        if ufrag in checked:
            raise _invalid(f"credentials[{index}].ufrag", "is named twice")
        if pwd and not _PWD.fullmatch(pwd):
            raise _invalid(f"credentials[{index}].pwd", "is neither empty nor 22 to 256 of A-Za-z0-9+/")
        checked[ufrag] = Credential(ufrag, pwd.encode())
    return tuple(checked.values())


@lru_cache(maxsize=4096)
def _parsed_address(text: str) -> tuple[IPAddress | None, str]:
    """An address and what is wrong with it. Thousands of sessions name the same few."""
    try:
        address = ip_address(text)
    except ValueError:
        return None, "is not an IP address"
    return address, unicast_fault(address)


def _check_endpoints(
    endpoints: Sequence[pb.Endpoint], local: LocalAddresses, prefixes: Sequence[IPNetwork] | None
) -> dict[str, Endpoint]:
    if not endpoints:
        raise _invalid("endpoints", "is empty; media has to go somewhere")
    checked: dict[str, Endpoint] = {}
    versions: set[int] = set()
    for index, message in enumerate(endpoints):
        field = f"endpoints[{index}]"
        address, fault = _parsed_address(message.address)
        if address is None or fault:
            raise _invalid(f"{field}.address", fault)
        if address in local.own:
            raise _invalid(f"{field}.address", f"{address} is the relay's own")
        if address.version in versions:
            raise _invalid(f"{field}.address", f"is a second one of IPv{address.version}")
        if not 1 <= message.port <= 65535:
            raise _invalid(f"{field}.port", f"{message.port} is not 1 to 65535")
        if prefixes is not None and not any(address in prefix for prefix in prefixes):
            raise RequestError(
                Code.PERMISSION_DENIED, f"{address} is in none of this caller's prefixes", f"{field}.address"
            )
        versions.add(address.version)
        checked[field] = Endpoint(address, message.port)
    served = {field: end for field, end in checked.items() if end.address.version in local.families}
    if not served:
        # Those that are not served beside one that is are left alone: the transceiver need not know.
        families = " and ".join(f"IPv{version}" for version in sorted(local.families))
        raise RequestError(Code.FAILED_PRECONDITION, f"this relay has VIPs in {families} only", "endpoints")
    return served
