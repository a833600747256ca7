# SPDX-License-Identifier: Apache-2.0
"""What is odd about a packet. Each twist is small, so that a case shrinks to the one that matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from tests.bpf.packets import (
    ETHERNET_BYTES,
    IPV4_BYTES,
    IPV6_BYTES,
    Datagram,
    with_extensions,
    with_protocol,
    with_vlan,
)
from tests.model.relay import Relay


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
            draft.edits.append(lambda frame: with_word(frame, at, word(frame, at) + self.off))


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
            left = (word(out.frame, ETHERNET_BYTES + 10) - self.near) % 0xFFFF
            draft.set(ident=(draft.datagram.ident + left) % 0xFFFF)
        elif self.where == "udp" and draft.datagram.payload[0] > 3 and len(draft.datagram.payload) > 4:
            left = (word(out.frame, ETHERNET_BYTES + _udp_offset(draft.datagram) + 6) - self.near) % 0xFFFF
            payload = draft.datagram.payload
            draft.set(payload=with_word(payload, 2, (word(payload, 2) + left) % 0xFFFF))

    def apply(self, draft: Draft) -> None:
        """Done last, by balance()."""


def _udp_offset(datagram: Datagram) -> int:
    """In the IP packet."""
    return IPV4_BYTES + len(datagram.options) if datagram.src.version == 4 else IPV6_BYTES


def word(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def with_word(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + (value & 0xFFFF).to_bytes(2, "big") + data[at + 2 :]
