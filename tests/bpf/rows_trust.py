# SPDX-License-Identifier: Apache-2.0
"""Rows about FINGERPRINT and MESSAGE-INTEGRITY: who knows the secret gets a flow, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator

from control.abi import Reason
from tests.bpf import stun, world
from tests.bpf.case import (
    Case,
    bound,
    charged_source,
    counted_up,
    established,
    from_client,
    new_hop,
    request,
    superseded,
    to_backend,
)
from tests.bpf.rows_stun import binds, dropped
from tests.bpf.world import ALICE, ALICE_AGAIN, BOB, LENIENT, Family

USER = ALICE + b":peer"
PWD = world.PWD
UNKNOWN = (0x7777, b"what?")
INTEGRITY_AND_FINGERPRINT = 24 + 8
LARGEST_FRAME = 3520  # that a test run takes: a page, less headroom and what follows the frame

NO_FINGERPRINT, FINGERPRINT = Reason.DROP_STUN_NO_FINGERPRINT, Reason.DROP_STUN_FINGERPRINT
NO_INTEGRITY, INTEGRITY = Reason.DROP_STUN_NO_INTEGRITY, Reason.DROP_STUN_INTEGRITY


def rows() -> Iterator[Case]:
    for family in world.FAMILIES:
        yield from _fingerprints(family)
        yield from _lenient(family)
        yield from _integrity(family)
        yield from _secrets(family)
        yield from _repeated(family)
        yield from _lengths(family)
        yield from _large(family)
        yield from _order(family)


def plain(ufrag: bytes = ALICE) -> bytes:
    """A request that is not signed."""
    return stun.message(stun.REQUEST, [(stun.USERNAME, ufrag + b":peer"), (stun.PRIORITY, bytes(4))])


def flipped(raw: bytes, at: int, bit: int = 1) -> bytes:
    changed = bytearray(raw)
    changed[at] ^= bit
    return bytes(changed)


def _fingerprints(family: Family) -> Iterator[Case]:
    """Demanded: absent or wrong, it is turned away, though MESSAGE-INTEGRITY holds."""
    sealed = stun.with_integrity(plain(), PWD)
    good = stun.with_fingerprint(sealed)
    yield dropped(family, "no FINGERPRINT", NO_FINGERPRINT, sealed)
    for byte in range(4):
        for bit in (1, 0x80):
            name = f"FINGERPRINT wrong in byte {byte}, bit {bit}"
            yield dropped(family, name, FINGERPRINT, flipped(good, byte - 4, bit))
    # Of a message of another length, of none, and without the constant of RFC 8489.
    bare = int.from_bytes(good[-4:], "big") ^ 0x5354554E
    for what, value in (("0", bytes(4)), ("a bare CRC", bare.to_bytes(4, "big"))):
        wrong = stun.with_attribute(sealed, stun.FINGERPRINT, value)
        yield dropped(family, f"FINGERPRINT of {what}", FINGERPRINT, wrong)
    # Each byte in front of it is covered: the header's type, length and cookie fail earlier.
    for at in (8, 19, 20 + 4, 20 + 4 + len(USER) - 1, len(sealed) - 1):
        changed = flipped(good, at)
        reason = Reason.DROP_UNKNOWN_UFRAG if at == 24 else FINGERPRINT
        yield dropped(family, f"changed at {at} after FINGERPRINT", reason, changed)
    late = stun.with_attribute(good, *UNKNOWN)
    yield dropped(family, "FINGERPRINT not last", NO_FINGERPRINT, late)
    for size in (0, 3, 5, 8):
        odd = stun.with_attribute(sealed, stun.FINGERPRINT, (good[-4:] * 2)[:size])
        yield dropped(family, f"FINGERPRINT of {size} bytes", NO_FINGERPRINT, odd)
    twice = stun.with_fingerprint(good)
    yield binds(family, "FINGERPRINT twice, the last good", twice)
    yield dropped(family, "FINGERPRINT twice, the first good", FINGERPRINT, flipped(twice, -1))
    first_wrong = stun.with_fingerprint(flipped(good, -1))
    yield binds(family, "FINGERPRINT twice, the first wrong", first_wrong)


def _lenient(family: Family) -> Iterator[Case]:
    """A session whose clients may leave FINGERPRINT out; where it is there, it must hold."""
    sealed = stun.with_integrity(plain(LENIENT), PWD)
    good = stun.with_fingerprint(sealed)
    yield binds(family, "optional FINGERPRINT absent", sealed, LENIENT)
    yield binds(family, "optional FINGERPRINT there", good, LENIENT)
    yield dropped(family, "optional FINGERPRINT wrong", FINGERPRINT, flipped(good, -1))
    # In these it does not count, and what is behind MESSAGE-INTEGRITY is not covered.
    yield binds(family, "optional FINGERPRINT not last", stun.with_attribute(good, *UNKNOWN), LENIENT)
    odd = stun.with_attribute(sealed, stun.FINGERPRINT, bytes(8))
    yield binds(family, "optional FINGERPRINT of 8 bytes", odd, LENIENT)
    yield dropped(family, "optional FINGERPRINT absent, no integrity", NO_INTEGRITY, plain(LENIENT))
    wrong = flipped(sealed, -1)
    yield dropped(family, "optional FINGERPRINT absent, integrity wrong", INTEGRITY, wrong)
    cut = stun.with_length(sealed[:-24], len(sealed) - 24 - stun.HEADER_BYTES)
    yield dropped(family, "cut before integrity", NO_INTEGRITY, cut)


def _integrity(family: Family) -> Iterator[Case]:
    name = f"v{family.version}"
    bare = stun.with_fingerprint(plain())
    yield dropped(family, "no integrity", NO_INTEGRITY, bare)
    sealed = stun.with_integrity(plain(), PWD)
    # FINGERPRINT is made anew, so that it is MESSAGE-INTEGRITY alone that can tell.
    for byte in range(20):
        for bit in (1, 0x80):
            wrong = stun.with_fingerprint(flipped(sealed, byte - 20, bit))
            yield dropped(family, f"integrity wrong in byte {byte}, bit {bit}", INTEGRITY, wrong)
    for at, what in ((8, "transaction"), (19, "transaction's end"), (-24 - 1, "priority")):
        wrong = stun.with_fingerprint(flipped(sealed, at))
        yield dropped(family, f"{what} changed after integrity", INTEGRITY, wrong)
    for what, value in (("zeros", bytes(20)), ("ones", b"\xff" * 20)):
        wrong = stun.with_fingerprint(stun.with_attribute(plain(), stun.MESSAGE_INTEGRITY, value))
        yield dropped(family, f"integrity of {what}", INTEGRITY, wrong)
    value = stun.integrity_of(plain(), PWD)
    for kind, size in ((stun.MESSAGE_INTEGRITY, 16), (stun.MESSAGE_INTEGRITY, 24), (0x001C, 32)):
        raw = stun.with_fingerprint(stun.with_attribute(plain(), kind, (value * 2)[:size]))
        yield dropped(family, f"integrity of kind {kind:x}, {size} bytes", NO_INTEGRITY, raw)
    # Whoever has no flow does not get one, and leaves no more than what the budget of its source says.
    wrong = from_client(family, stun.with_fingerprint(flipped(sealed, -1))).frame()
    charged = (charged_source(family.client.address),)
    yield Case(f"{name} integrity wrong without a flow", INTEGRITY, wrong, changes=charged)


def _secrets(family: Family) -> Iterator[Case]:
    """Which pwd it must be made with: that of the very ufrag it names."""

    def by(ufrag: bytes, pwd: bytes) -> bytes:
        return stun.request(ufrag + b":peer", pwd)

    other = world.SESSIONS[BOB].pwd
    again = world.SESSIONS[ALICE_AGAIN].pwd
    assert other
    assert again
    for what, pwd in (
        ("another session's pwd", other),
        ("the pwd of the session's other ufrag", again),
        ("the peer's pwd", b"p" * 22),
        ("an empty pwd", b""),
        ("a part of the pwd", PWD[:-1]),
    ):
        yield dropped(family, what, INTEGRITY, by(ALICE, pwd))
    # HMAC fills its key up with zeros (RFC 2104, 2).
    yield binds(family, "the pwd and a zero, which is the same key", by(ALICE, PWD + b"\0"))
    yield dropped(family, "the first pwd for the other ufrag", INTEGRITY, by(ALICE_AGAIN, PWD))
    yield binds(family, "the other ufrag's own pwd", by(ALICE_AGAIN, again), ALICE_AGAIN)
    for ufrag, session in world.SESSIONS.items():
        if ufrag.startswith(b"pwdof"):
            assert session.pwd
            size = len(session.pwd)
            yield binds(family, f"pwd of {size}", by(ufrag, session.pwd), ufrag)
            short = session.pwd[:-1]
            yield dropped(family, f"pwd of {size}, its last letter left out", INTEGRITY, by(ufrag, short))
            last = flipped(session.pwd, -1)
            yield dropped(family, f"pwd of {size}, its last letter wrong", INTEGRITY, by(ufrag, last))


def _repeated(family: Family) -> Iterator[Case]:
    """The first MESSAGE-INTEGRITY of 20 bytes counts; what is behind it is not covered."""
    sealed = stun.with_integrity(plain(), PWD)
    seal = stun.with_fingerprint
    for count in (1, 2, 5):
        message = sealed
        for number in range(count):
            message = stun.with_attribute(message, 0x7770 + number, b"between"[: 7 - number])
        yield binds(family, f"{count} attributes between the two", seal(message))
    twice = stun.with_attribute(sealed, stun.MESSAGE_INTEGRITY, bytes(20))
    yield binds(family, "integrity twice, the first good", seal(twice))
    zeros = stun.with_attribute(plain(), stun.MESSAGE_INTEGRITY, bytes(20))
    yield dropped(family, "integrity twice, the last good", INTEGRITY, seal(stun.with_integrity(zeros, PWD)))
    short = stun.with_attribute(plain(), stun.MESSAGE_INTEGRITY, bytes(16))
    yield binds(family, "integrity of 16 bytes, then a good one", seal(stun.with_integrity(short, PWD)))
    both = stun.with_attribute(sealed, 0x001C, bytes(32))
    yield binds(family, "integrity by SHA-256 behind it", seal(both))
    # Another's USERNAME behind it says nothing; another's in front of it is covered, and the first counts.
    behind = stun.with_attribute(sealed, stun.USERNAME, BOB + b":peer")
    yield binds(family, "another USERNAME behind integrity", seal(behind))
    early = stun.with_fingerprint(plain())
    yield binds(
        family, "FINGERPRINT in front of integrity and at the end", seal(stun.with_integrity(early, PWD))
    )
    yield dropped(
        family, "FINGERPRINT in front of integrity", NO_FINGERPRINT, stun.with_integrity(early, PWD)
    )


def _extended(extra: int, pwd: bytes = PWD) -> bytes:
    """A good request of so many bytes more than the shortest one, a multiple of 4."""
    more = [(stun.SOFTWARE, bytes(range(256)) * 16)] if extra else []
    more = [(kind, value[: extra - 4]) for kind, value in more]
    return stun.signed(stun.message(stun.REQUEST, [(stun.USERNAME, USER), *more]), pwd)


def _lengths(family: Family) -> Iterator[Case]:
    """Around each border of SHA-1's blocks of 64 bytes, with each amount of padding, good and wrong."""
    for extra in range(0, 137, 4):
        name = f"a request {extra} bytes longer"
        yield binds(family, name, _extended(extra))
        wrong = _extended(extra, b"guessed")
        yield dropped(family, f"{name}, integrity wrong", INTEGRITY, wrong)
        # The last byte that MESSAGE-INTEGRITY covers; where it is a header's, one of the transaction.
        at = 8 if extra == 4 else len(wrong) - INTEGRITY_AND_FINGERPRINT - 1
        damaged = flipped(_extended(extra), at)
        yield dropped(family, f"{name}, damaged", FINGERPRINT, damaged)
        resealed = stun.with_fingerprint(damaged[:-8])
        yield dropped(family, f"{name}, a byte wrong", INTEGRITY, resealed)
    fits = (world.MTU - family.overhead) // 4 * 4 - len(_extended(0))
    for extra in (600, 1000, 1300, fits - 64, fits - 8, fits - 4, fits):
        yield binds(
            family, f"a request {extra} bytes longer, as long as fits {fits - extra}", _extended(extra)
        )


def _large(family: Family) -> Iterator[Case]:
    """Larger than what may leave: that it was bound before shows that it was checked to its end."""
    name = f"v{family.version}"
    hop = new_hop(family.client.address)
    most = (LARGEST_FRAME - 14 - family.overhead) // 4 * 4 - len(_extended(0))
    for extra in (1500, 2048, 3000, most - 60, most):
        good = from_client(family, _extended(extra))
        yield Case(
            f"{name} a request {extra} bytes longer binds, but is too big",
            Reason.DROP_TOO_BIG,
            good.frame(),
            changes=(hop, bound(family)),
        )
        wrong = _extended(extra, b"guessed")
        yield dropped(family, f"a request {extra} bytes longer, integrity wrong", INTEGRITY, wrong)
        last = len(good.payload) - INTEGRITY_AND_FINGERPRINT - 1
        resealed = stun.with_fingerprint(flipped(good.payload, last)[:-8])
        yield dropped(family, f"a request {extra} bytes longer, its last byte wrong", INTEGRITY, resealed)


def _order(family: Family) -> Iterator[Case]:
    """Of two faults the first in order counts; and what a flow has to do with it: nothing."""
    name = f"v{family.version}"
    both = flipped(flipped(stun.request(USER, PWD), -1), -12)
    yield dropped(family, "FINGERPRINT and integrity wrong", FINGERPRINT, both)
    yield dropped(family, "neither FINGERPRINT nor integrity", NO_FINGERPRINT, plain())
    stranger = flipped(stun.request(b"mallory0:peer", PWD), -1)
    yield dropped(family, "unknown ufrag and FINGERPRINT wrong", Reason.DROP_UNKNOWN_UFRAG, stranger)
    only = b"onlyv6" if family.version == 4 else b"onlyv4"
    forged = stun.request(only + b":peer", b"guessed")
    yield dropped(family, "session of the other family, integrity wrong", INTEGRITY, forged)
    # A forger who knows a ufrag and a client's 5-tuple cannot re-point the flow, nor keep it from ageing;
    # who knows the secret can.
    forged = stun.request(BOB + b":peer", b"guessed")
    yield dropped(family, "a forged request for another session", INTEGRITY, forged)
    bob = request(family, BOB)
    yield Case(
        f"{name} a good request for another session",
        Reason.FORWARD_REBOUND,
        bob.frame(),
        out=to_backend(bob, family, family.free[0], backend=family.backends.other),
        arrange=(established(family),),
        changes=(
            new_hop(family.client.address),
            bound(family, BOB, had_flow=True),
            superseded(family.live),
            counted_up(family.free[0], bob.ip_bytes),
        ),
    )
