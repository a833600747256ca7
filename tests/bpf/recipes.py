# SPDX-License-Identifier: Apache-2.0
"""Packets as recipes, for hypothesis: what they are made of, and what is odd about them.

A step is written down before the state is known in which it is carried out (which relay port a
flow has got, which transaction it waits for), so it is turned into a frame late, by `frame`.
Steps are well-formed but for their *twists*, of which there are few at a time: a case shrinks
to the one that matters.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from control.addresses import Endpoint
from tests.bpf import pcap, stun, world
from tests.bpf.packets import (
    ETHERNET_BYTES,
    IPV4_BYTES,
    IPV6_BYTES,
    Datagram,
    parse,
    with_extensions,
    with_protocol,
    with_vlan,
)
from tests.bpf.world import V4, V6, Family
from tests.model.relay import Relay
from tests.model.state import Life, Session, State

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
CAPTURE_NAMES = ("aiortc", "chromium", "chromium_lite", "gstreamer", "werift")

# ---- who there is ----------------------------------------------------------------------------


def _session(number: int, v4: int, v6: int, pwd: bytes | None, *, lax: bool = False) -> Session:
    backends = {family: backend for family, backend in ((4, v4), (6, v6)) if backend}
    return Session(number, backends, pwd, fingerprint_optional=lax)


LONGEST = b"u" * 32
# Two ufrags each of Alice and of Carol, who keeps her pwd to herself.
SESSIONS = {
    b"alice": _session(7, 1, 2, b"the-pwd-of-alice-is-22b"),
    b"alice-again": _session(7, 1, 2, b"another-pwd-after-a-restart"),
    b"bob": _session(8, 3, 4, b"p" * 64),
    b"carol": _session(20, 1, 2, None),
    b"carol-again": _session(20, 1, 2, None),
    b"dave": _session(21, 3, 4, None),
    b"lax": _session(22, 1, 2, b"p" * 65, lax=True),
    b"lax-open": _session(23, 1, 2, None, lax=True),
    LONGEST: _session(9, 1, 2, b"p" * 256),
    b"x": _session(10, 3, 4, b"one-letter-of-a-ufrag!"),
    b"only4": _session(11, 1, 0, b"only-a-backend-of-ipv4"),
    b"only6": _session(12, 0, 2, b"only-a-backend-of-ipv6"),
    b"unresolved": _session(13, 5, 6, b"its-neighbour-is-not-known"),
    b"near": _session(14, 7, 8, b"behind-the-clients-link"),
    b"absent-hop": _session(15, 9, 10, b"its-hop-does-not-exist"),
    b"narrow": _session(16, 11, 12, b"by-a-link-of-a-small-mtu"),
    b"absent-backend": _session(17, world.ABSENT_BACKEND, world.ABSENT_BACKEND, b"its-backend-is-not-there"),
}
FAMILIES = {4: V4, 6: V6}


def _clients(family: Family, strange: Sequence[str]) -> list[Endpoint]:
    usual = [
        family.client,
        family.client._replace(port=family.client.port + 1),
        family.distant,
        family.quiet,
        family.unreachable,
        family.elsewhere,
        family.ruled,
    ]
    own = [family.vip.address, family.relay, family.own]
    inside = world.BACKEND_ENDPOINTS[family.backends.usual]
    edges = [family.client._replace(port=port) for port in (0, 1, 65535)]
    others = [Endpoint(ip_address(address), 50006) for address in strange]
    return [*usual, inside, *edges, *(Endpoint(address, 50007) for address in own), *others]


CLIENTS = {
    4: _clients(
        V4,
        [
            *("0.0.0.1", "1.0.0.0", "126.255.255.255", "127.0.0.1", "128.0.0.1", "223.255.255.255"),
            *("224.0.0.1", "255.255.255.255", "198.51.100.255", "10.77.9.9"),
        ],
    ),
    6: _clients(
        V6,
        ["::1", "::", "0:1::1", "ff02::1", "feff::1", "::ffff:198.51.100.10", "::ffff:10.20.0.1", "100::1"],
    ),
}
USUAL_CLIENTS = 3  # the first ones of each

# ---- twists ----------------------------------------------------------------------------------


@dataclass
class Draft:
    """A packet that is being made."""

    datagram: Datagram
    link: str
    edits: list[Callable[[bytes], bytes]] = field(default_factory=list)  # of the frame, in order
    cuts: list[Callable[[bytes], bytes]] = field(default_factory=list)  # after them

    def set(self, **fields: object) -> None:
        self.datagram = replace(self.datagram, **fields)  # type: ignore[arg-type]

    def frame(self) -> bytes:
        frame = self.datagram.frame()
        for edit in [*self.edits, *self.cuts]:
            frame = edit(frame)
        return frame[:3500]  # what a test run takes


@dataclass(frozen=True)
class Twist:
    def apply(self, draft: Draft) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Field(Twist):
    """Another value in a field of the headers."""

    name: str
    value: int | bytes

    def apply(self, draft: Draft) -> None:
        draft.set(**{self.name: self.value})


@dataclass(frozen=True)
class Length(Twist):
    """A length that is off by so much."""

    name: str  # ip_length, udp_length
    off: int

    def apply(self, draft: Draft) -> None:
        datagram = draft.datagram
        truth = 8 + len(datagram.payload)
        if self.name == "ip_length" and datagram.src.version == 4:
            truth += IPV4_BYTES + len(datagram.options)
        draft.set(**{self.name: (truth + self.off) & 0xFFFF})


@dataclass(frozen=True)
class Shrink(Twist):
    """A packet that says consistently that it is shorter by so much; what is left is padding."""

    by: int

    def apply(self, draft: Draft) -> None:
        payload = draft.datagram.payload
        kept = max(0, len(payload) - self.by)
        draft.set(payload=payload[:kept], padding=payload[kept:])


@dataclass(frozen=True)
class Grow(Twist):
    """Media that makes the IP packet just so long."""

    ip_bytes: int

    def apply(self, draft: Draft) -> None:
        payload = draft.datagram.payload
        missing = self.ip_bytes - draft.datagram.ip_bytes
        if payload and payload[0] > 3 and missing > 0:
            draft.set(payload=payload + bytes(missing))


@dataclass(frozen=True)
class WrongChecksum(Twist):
    """The IPv4 or the UDP checksum is off by so much (0xffff: by the other zero)."""

    where: str  # ip, udp
    off: int

    def apply(self, draft: Draft) -> None:
        version, at = draft.datagram.src.version, ETHERNET_BYTES
        at += 10 if self.where == "ip" else _udp_offset(draft.datagram) + 6
        if self.where == "udp" or version == 4:
            draft.edits.append(lambda frame: _with_word(frame, at, _word(frame, at) + self.off))


@dataclass(frozen=True)
class Tag(Twist):
    tpid: int

    def apply(self, draft: Draft) -> None:
        draft.edits.append(lambda frame: with_vlan(frame, self.tpid))


@dataclass(frozen=True)
class Protocol(Twist):
    protocol: int

    def apply(self, draft: Draft) -> None:
        draft.edits.append(lambda frame: with_protocol(frame, self.protocol))


@dataclass(frozen=True)
class Extensions(Twist):
    """IPv6 extension headers: number, length field, fragment offset and flags."""

    chain: tuple[tuple[int, int, int], ...]
    upper: int = 17

    def apply(self, draft: Draft) -> None:
        if draft.datagram.src.version == 6:
            draft.edits.append(lambda frame: with_extensions(frame, self._headers(), self.upper))

    def _headers(self) -> list[tuple[int, bytes]]:
        made = []
        for kind, length, fragment in self.chain:
            size = 8 if kind == 44 else (length + 2) * 4 if kind == 51 else (length + 1) * 8
            raw = bytearray(max(8, size))
            raw[1] = length
            if kind == 44:
                raw[2:4] = fragment.to_bytes(2, "big")
            made.append((kind, bytes(raw)))
        return made


@dataclass(frozen=True)
class Cut(Twist):
    """The frame ends early: so many bytes before its end, or (negative) so many behind the IP header."""

    before_end: int

    def apply(self, draft: Draft) -> None:
        def cut(frame: bytes) -> bytes:
            ip = IPV4_BYTES if frame[12:14] == b"\x08\x00" else IPV6_BYTES
            at = (
                ETHERNET_BYTES + ip - self.before_end
                if self.before_end <= 0
                else len(frame) - self.before_end
            )
            return frame[: max(ETHERNET_BYTES, at)]

        draft.cuts.append(cut)


@dataclass(frozen=True)
class Damage(Twist):
    """Another byte somewhere."""

    at: int
    value: int

    def apply(self, draft: Draft) -> None:
        def damage(frame: bytes) -> bytes:
            at = self.at % len(frame)
            return frame[:at] + bytes([self.value]) + frame[at + 1 :]

        draft.edits.append(damage)


@dataclass(frozen=True)
class Elsewhere(Twist):
    """To another port or address."""

    address: str | None
    port: int | None

    def apply(self, draft: Draft) -> None:
        address = ip_address(self.address) if self.address else draft.datagram.dst
        if address.version == draft.datagram.src.version:
            draft.set(dst=address, dport=draft.datagram.dport if self.port is None else self.port)


@dataclass(frozen=True)
class ComesBy(Twist):
    link: str

    def apply(self, draft: Draft) -> None:
        draft.link = self.link


@dataclass(frozen=True)
class Balanced(Twist):
    """Such a payload, or such an identification, that the checksum which leaves is 0, or nearly."""

    where: str  # ip, udp
    near: int

    def balance(self, draft: Draft, relay: Relay) -> None:
        """As far as the packet would be forwarded in this state."""
        out = relay.preview(draft.frame(), draft.link)
        if out.action not in ("TX", "REDIRECT") or draft.edits or draft.cuts:
            return
        if self.where == "ip" and draft.datagram.src.version == 4:
            left = (_word(out.frame, ETHERNET_BYTES + 10) - self.near) % 0xFFFF
            draft.set(ident=(draft.datagram.ident + left) % 0xFFFF)
        elif self.where == "udp" and draft.datagram.payload[0] > 3 and len(draft.datagram.payload) > 4:
            left = (_word(out.frame, ETHERNET_BYTES + _udp_offset(draft.datagram) + 6) - self.near) % 0xFFFF
            payload = draft.datagram.payload
            draft.set(payload=_with_word(payload, 2, (_word(payload, 2) + left) % 0xFFFF))

    def apply(self, draft: Draft) -> None:
        """Done last, by balance()."""


def _udp_offset(datagram: Datagram) -> int:
    """In the IP packet."""
    return IPV4_BYTES + len(datagram.options) if datagram.src.version == 4 else IPV6_BYTES


def _word(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _with_word(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + (value & 0xFFFF).to_bytes(2, "big") + data[at + 2 :]


# ---- steps -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One packet."""

    twists: tuple[Twist, ...] = field(default=(), kw_only=True)

    def draft(self, state: State) -> Draft:
        raise NotImplementedError

    def frame(self, relay: Relay) -> tuple[bytes, str]:
        """The frame, and the link that it comes by."""
        draft = self.draft(relay.state)
        for twist in self.twists:
            twist.apply(draft)
        for twist in self.twists:
            if isinstance(twist, Balanced):
                twist.balance(draft, relay)
        return draft.frame(), draft.link


def _from_client(family: int, client: int, payload: bytes, vip: Endpoint | None = None) -> Draft:
    source = CLIENTS[family][client % len(CLIENTS[family])]
    target = vip or FAMILIES[family].vip
    link = world.CLIENTS
    return Draft(
        Datagram(
            source.address,
            target.address,
            source.port,
            target.port,
            payload,
            smac=world.QUIET_MAC,
            dmac=world.LINK_MACS[link],
        ),
        link,
    )


def transaction(number: int) -> bytes:
    return b"transaction%d" % number


@dataclass(frozen=True)
class Request(Step):
    """A Binding Request, or what looks like one."""

    family: int
    client: int
    ufrag: bytes
    rest: bytes = b":peer"  # of USERNAME
    transaction: int = 0
    kind: int = stun.REQUEST
    before: tuple[tuple[int, int], ...] = ()  # attributes before USERNAME: kind and length
    after: tuple[tuple[int, int], ...] = ()
    integrity: str = "right"
    between: tuple[tuple[int, int], ...] = ()  # MESSAGE-INTEGRITY and FINGERPRINT
    fingerprint: str = "right"
    length_off: int = 0
    cookie: int = stun.COOKIE
    second_vip: bool = False

    def draft(self, state: State) -> Draft:
        vip = world.SECOND_VIP if self.second_vip and self.family == 4 else None
        return _from_client(self.family, self.client, self._message(), vip)

    def _message(self) -> bytes:
        fixed = struct.pack("!HHI", self.kind, 0, self.cookie) + transaction(self.transaction)
        raw = fixed + _attributes(self.before)
        session = SESSIONS.get(self.ufrag)
        pwd = session.pwd if session and session.pwd else b"a-pwd-that-nobody-has"
        if self.integrity == "before":
            raw = _with_integrity(raw, pwd)
        if self.rest != b"no":
            raw += stun.attribute(stun.USERNAME, self.ufrag + self.rest)
        raw += _attributes(self.after)
        raw = INTEGRITIES[self.integrity](raw, pwd)
        raw += _attributes(self.between)
        raw = FINGERPRINTS[self.fingerprint](raw)
        return _with_length(raw, self.length_off)


def _attributes(plan: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(stun.attribute(kind, b"\xa5" * length) for kind, length in plan)


def _with_length(raw: bytes, off: int = 0) -> bytes:
    return _with_word(raw, 2, len(raw) - stun.HEADER_BYTES + off)


def _mac(raw: bytes, pwd: bytes) -> bytes:
    return stun.with_integrity(raw, pwd)[-20:]


def _with_integrity(raw: bytes, pwd: bytes) -> bytes:
    return raw + stun.attribute(stun.MESSAGE_INTEGRITY, _mac(raw, pwd))


def _flipped(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


INTEGRITIES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "right": _with_integrity,
    "last bit wrong": lambda raw, pwd: _flipped(_with_integrity(raw, pwd)),
    "first word wrong": lambda raw, pwd: (
        raw + stun.attribute(stun.MESSAGE_INTEGRITY, b"\0\0\0\0" + _mac(raw, pwd)[4:])
    ),
    "of another pwd": lambda raw, pwd: _with_integrity(raw, pwd + b"!"),
    "absent": lambda raw, pwd: raw,
    "before": lambda raw, pwd: raw,  # of USERNAME
    "short": lambda raw, pwd: raw + stun.attribute(stun.MESSAGE_INTEGRITY, _mac(raw, pwd)[:19]),
    "long": lambda raw, pwd: raw + stun.attribute(stun.MESSAGE_INTEGRITY, _mac(raw, pwd) + b"!"),
    "beyond the end": lambda raw, pwd: raw + struct.pack("!HH", stun.MESSAGE_INTEGRITY, 40) + _mac(raw, pwd),
    "short, then right": lambda raw, pwd: _with_integrity(
        raw + stun.attribute(stun.MESSAGE_INTEGRITY, bytes(4)), pwd
    ),
    "wrong, then right": lambda raw, pwd: _with_integrity(_flipped(_with_integrity(raw, pwd)), pwd),
    "right, then wrong": lambda raw, pwd: _flipped(_with_integrity(_with_integrity(raw, pwd), pwd)),
}


FINGERPRINTS: dict[str, Callable[[bytes], bytes]] = {
    "right": stun.with_fingerprint,
    "wrong": lambda raw: _flipped(stun.with_fingerprint(raw)),
    "absent": lambda raw: raw,
    "not last": lambda raw: stun.with_fingerprint(raw) + stun.attribute(0x8022, b"last"),
    "long": lambda raw: raw + stun.attribute(stun.FINGERPRINT, bytes(8)),
    "short": lambda raw: raw + stun.attribute(stun.FINGERPRINT, stun.with_fingerprint(raw)[-4:-1]),
    "one byte beyond the end": lambda raw: _with_word(stun.with_fingerprint(raw), len(raw) + 2, 5),
    "wrong, then right": lambda raw: stun.with_fingerprint(_flipped(stun.with_fingerprint(raw))),
}


EDGES = (3, 4, 19, 20, 63, 64, 127, 128, 191, 192, 255)  # of RFC 7983's ranges
MEDIA = {
    "rtp": bytes.fromhex("806f0001000003c0deadbeef") + bytes(range(20)),
    "odd rtp": bytes.fromhex("bf6f0001000003c0deadbeef") + bytes(range(21)),
    "dtls": bytes.fromhex("16fefd0000000000000000000c") + bytes(12),
    "one byte": b"\x80",
    "empty": b"",
    "indication": stun.message(stun.INDICATION),
    "error": stun.message(stun.ERROR),
    "ping": stun.message(stun.GOOG_PING),
    "short stun": b"\0\1" + bytes(17),
    "bare stun": b"\0\1" + bytes(18),
    **{
        f"first byte {first}": bytes([first, *range(20)])
        for first in (3, 4, 19, 20, 63, 64, 127, 128, 191, 192, 255)
    },
}


@dataclass(frozen=True)
class Media(Step):
    """From a client, by its flow if it has one."""

    family: int
    client: int
    what: str

    def draft(self, state: State) -> Draft:
        return _from_client(self.family, self.client, MEDIA[self.what])


@dataclass(frozen=True)
class Answer(Step):
    """From a transceiver, to a flow's relay port."""

    family: int
    pick: int  # which flow
    what: str
    flip: int | None = None  # a byte of the transaction id
    backend: int | None = None  # another one than the flow's
    source_port_off: int = 0

    def draft(self, state: State) -> Draft:
        family = FAMILIES[self.family]
        of_family = [
            number
            for number in range(len(state.records))
            if state.relays[number >> state.port_bits].version == self.family
            and number & (1 << state.port_bits) - 1 < len(state.ports)
        ]
        used = [number for number in of_family if state.records[number].life is not Life.FREE]
        number = (used or of_family)[self.pick % len(used or of_family)]
        record, target = state.records[number], state.relay_endpoint(number)
        chosen = self.backend or record.backend
        source = world.BACKEND_ENDPOINTS.get(chosen, world.BACKEND_ENDPOINTS[family.backends.usual])
        if source.address.version != self.family:
            source = world.BACKEND_ENDPOINTS[family.backends.usual]
        datagram = Datagram(
            source.address,
            target.address,
            source.port + self.source_port_off,
            target.port,
            self._payload(record.transaction or transaction(0)),
            smac=world.BACKEND_MAC,
            dmac=world.LINK_MACS[world.BACKENDS],
        )
        return Draft(datagram, world.BACKENDS)

    def _payload(self, asked: bytes) -> bytes:
        if self.what not in ("success", "failure", "question"):
            return MEDIA[self.what]
        if self.flip is not None:
            asked = asked[: self.flip] + bytes([asked[self.flip] ^ 1]) + asked[self.flip + 1 :]
        kind = {"success": stun.RESPONSE, "failure": stun.ERROR, "question": stun.REQUEST}[self.what]
        return stun.with_fingerprint(struct.pack("!HHI", kind, 0, stun.COOKIE) + asked)


@dataclass(frozen=True)
class Captured(Step):
    """A packet of a captured call, from the client as it was, or from its transceiver to its relay port."""

    name: str
    number: int

    def draft(self, state: State) -> Draft:
        frames = captured(self.name)
        datagram = frames[self.number % len(frames)]
        if datagram.dst == world.CAPTURED_VIP.address:
            return Draft(datagram, world.CLIENTS)
        client = (datagram.dst, datagram.dport)
        record = next(
            (number for number, one in enumerate(state.records) if one.key and one.key.client == client),
            V4.live,
        )
        relay, source = state.relay_endpoint(record), world.BACKEND_ENDPOINTS[V4.backends.usual]
        datagram = replace(
            datagram, src=source.address, sport=source.port, dst=relay.address, dport=relay.port
        )
        return Draft(datagram, world.BACKENDS)


@cache
def captured(name: str) -> list[Datagram]:
    """The packets of a captured call, its requests more often than once, since they are few."""
    datagrams = [parse(frame) for frame in pcap.frames(CAPTURES / f"{name}.pcap")]
    of_stun = [one for one in datagrams if one.payload[0] <= 3]
    others = [one for one in datagrams if one.payload[0] > 3]
    return of_stun + others[: len(of_stun)]


@cache
def captured_sessions(name: str) -> dict[bytes, Session]:
    told = json.loads((CAPTURES / f"{name}.json").read_text())
    parts = [part for part in (told, told.get("restart")) if part]
    return {
        part["server_ufrag"].encode(): _session(30, V4.backends.usual, 0, part["server_pwd"].encode())
        for part in parts
    }
