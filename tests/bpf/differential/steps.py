# SPDX-License-Identifier: Apache-2.0
"""Packets as recipes: what they are made of.

A step is written down before the state is known in which it is carried out (which relay port a
flow has got, which transaction it waits for), so it is turned into a frame late, by `frame`.
Steps are well-formed but for their flaws, which are named in their fields, and their twists.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from control.addresses import Endpoint
from tests.bpf import pcap, stun, world
from tests.bpf.differential.people import CAPTURES, CLIENTS, FAMILIES, PWDS
from tests.bpf.differential.twists import Balanced, Draft, Twist, with_word
from tests.bpf.packets import Datagram, parse
from tests.bpf.world import V4
from tests.model.relay import Relay
from tests.model.state import Life, State


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
    pwd: bytes | None = None  # in place of the one that goes with the ufrag

    def draft(self, state: State) -> Draft:
        vip = world.SECOND_VIP if self.second_vip and self.family == 4 else None
        return _from_client(self.family, self.client, self._message(), vip)

    def _message(self) -> bytes:
        fixed = struct.pack("!HHI", self.kind, 0, self.cookie) + transaction(self.transaction)
        raw = fixed + _attributes(self.before)
        pwd = self.pwd or PWDS.get(self.ufrag) or b"a-pwd-that-nobody-has"
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
    return with_word(raw, 2, len(raw) - stun.HEADER_BYTES + off)


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
    "one byte beyond the end": lambda raw: with_word(stun.with_fingerprint(raw), len(raw) + 2, 5),
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
            if state.relay_endpoint(number).address.version == self.family
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
