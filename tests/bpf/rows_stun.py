# SPDX-License-Identifier: Apache-2.0
"""Rows about payloads: RFC 7983's ranges, and STUN messages from good to absurd."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace

from control.abi import Reason
from tests.bpf import stun, world
from tests.bpf.case import (
    Case,
    Change,
    bound,
    counted_down,
    counted_up,
    established,
    from_backend,
    from_client,
    new_hop,
    to_backend,
    to_client,
)
from tests.bpf.world import ALICE, BACKENDS, Family

MOST_ATTRIBUTES = 15
USER = ALICE + b":peer"
PADDING = (stun.SOFTWARE, b"earshot")


def rows() -> Iterator[Case]:
    for family in world.FAMILIES:
        yield from _first_bytes(family)
        yield from _headers(family)
        yield from _attributes(family)
        yield from _usernames(family)
        yield from _not_requests(family)


def binds(family: Family, name: str, message: bytes, ufrag: bytes = ALICE) -> Case:
    """A request from the family's client makes a flow, and goes on to the usual backend."""
    datagram = from_client(family, message)
    record = family.free[0]
    return Case(
        f"v{family.version} {name}",
        Reason.FORWARD_BOUND,
        datagram.frame(),
        out=to_backend(datagram, family, record),
        changes=(
            new_hop(family.client.address),
            bound(family, ufrag),
            counted_up(record, datagram.ip_bytes),
        ),
    )


def dropped(family: Family, name: str, reason: Reason, message: bytes) -> Case:
    """Though the client has a flow already."""
    frame = from_client(family, message).frame()
    return Case(f"v{family.version} {name}", reason, frame, arrange=(established(family),))


def _request(attributes: Sequence[stun.Attribute]) -> bytes:
    """With these attributes, by somebody who knows Alice's pwd."""
    return stun.signed(stun.message(stun.REQUEST, attributes), world.PWD)


def both_ways(family: Family, name: str, payload: bytes) -> Iterator[Case]:
    """By the flow that is there, up and down."""
    up, down = from_client(family, payload), from_backend(family, payload)
    yield Case(
        f"v{family.version} {name} up",
        Reason.FORWARD_TO_TRANSCEIVER,
        up.frame(),
        out=to_backend(up, family, family.live),
        arrange=(established(family),),
        changes=(counted_up(family.live, up.ip_bytes),),
    )
    yield Case(
        f"v{family.version} {name} down",
        Reason.FORWARD_TO_CLIENT,
        down.frame(),
        link=BACKENDS,
        out=to_client(down, family),
        arrange=(established(family),),
        changes=(counted_down(family.live, down.ip_bytes),),
    )


def _first_bytes(family: Family) -> Iterator[Case]:
    """RFC 7983, section 7: each range's ends, and what is beside them."""
    for first in (20, 22, 63, 128, 191):
        yield from both_ways(family, f"first byte {first}", bytes([first]) + b"media")
    for first in (4, 15, 16, 19, 64, 79, 80, 127, 192, 255):
        yield dropped(family, f"first byte {first} up", Reason.DROP_NOT_RTC, bytes([first]) + b"media")
        down = from_backend(family, bytes([first]) + b"media").frame()
        yield Case(
            f"v{family.version} first byte {first} down",
            Reason.DROP_NOT_RTC,
            down,
            link=BACKENDS,
            arrange=(established(family),),
        )


def _headers(family: Family) -> Iterator[Case]:
    good = stun.request(USER, world.PWD)
    for size in (1, 4, 19):
        yield dropped(family, f"stun of {size} bytes", Reason.DROP_STUN_SHORT, good[:size])
    short = from_backend(family, good[:19]).frame()
    yield Case(f"v{family.version} short stun down", Reason.DROP_STUN_SHORT, short, link=BACKENDS)
    body = len(good) - stun.HEADER_BYTES
    for length in (0, 1, body - 4, body - 1, body + 1, body + 4, 0xFFFC, 0xFFFF):
        lying = stun.with_length(good, length)
        yield dropped(family, f"stun length {length}", Reason.DROP_STUN_LENGTH, lying)
    odd = stun.with_length(good + b"!", body + 1)
    yield dropped(family, "stun length true but odd", Reason.DROP_STUN_LENGTH, odd)
    for cookie in (0, stun.COOKIE ^ 1, 0x42A41221):
        wrong = stun.signed(stun.message(stun.REQUEST, [(stun.USERNAME, USER)], cookie=cookie), world.PWD)
        yield dropped(family, f"stun cookie {cookie:08x}", Reason.DROP_STUN_COOKIE, wrong)


def _attributes(family: Family) -> Iterator[Case]:
    user = (stun.USERNAME, USER)
    for count in (MOST_ATTRIBUTES - 1, MOST_ATTRIBUTES):
        # The last two are MESSAGE-INTEGRITY and FINGERPRINT.
        message = _request([*[PADDING] * (count - 3), user])
        yield binds(family, f"{count} attributes, USERNAME as late as may be", message)
    for count in (MOST_ATTRIBUTES + 1, MOST_ATTRIBUTES + 2, 40, 300):
        message = _request([user, *[(stun.SOFTWARE, b"")] * (count - 3)])
        reason = Reason.DROP_STUN_TOO_MANY_ATTRIBUTES
        yield dropped(family, f"{count} attributes", reason, message)
    good = stun.message(stun.REQUEST, [user, PADDING])
    last = len(good) - 4 - len(PADDING[1]) - -len(PADDING[1]) % 4
    for size in (9, 100, 0xFFFF):
        lying = good[: last + 2] + struct.pack("!H", size) + good[last + 4 :]
        yield dropped(family, f"last attribute of {size} bytes", Reason.DROP_STUN_ATTRIBUTE, lying)
    first = good[: stun.HEADER_BYTES + 2] + b"\xff\xff" + good[stun.HEADER_BYTES + 4 :]
    yield dropped(family, "USERNAME of 65535 bytes", Reason.DROP_STUN_ATTRIBUTE, first)
    for where, message in (
        ("before", stun.request(USER, world.PWD, before=[(0xC057, bytes(4)), (stun.USE_CANDIDATE, b"")])),
        ("after", stun.request(USER, world.PWD, after=[(0x7777, b"abc"), (stun.USE_CANDIDATE, b"")])),
    ):
        yield binds(family, f"attributes {where} USERNAME", message)
    # What is cut at the border of an attribute is a message of its own (but without FINGERPRINT);
    # elsewhere it lies.
    message = stun.request(USER, world.PWD)
    border = stun.HEADER_BYTES
    for size in range(stun.HEADER_BYTES, len(message), 4):
        cut = stun.with_length(message[:size], size - stun.HEADER_BYTES)
        name = f"request cut to {size} that says so"
        if size > border:
            border += 4 + (int.from_bytes(message[border + 2 : border + 4], "big") + 3) // 4 * 4
        if size == stun.HEADER_BYTES:
            yield dropped(family, name, Reason.DROP_STUN_NO_USERNAME, cut)
        elif size == border:
            yield dropped(family, name, Reason.DROP_STUN_NO_FINGERPRINT, cut)
        else:
            yield dropped(family, name, Reason.DROP_STUN_ATTRIBUTE, cut)


def _usernames(family: Family) -> Iterator[Case]:
    def message(*usernames: bytes) -> bytes:
        return _request([(stun.USERNAME, one) for one in usernames])

    none = _request([PADDING])
    yield dropped(family, "no USERNAME", Reason.DROP_STUN_NO_USERNAME, none)
    late = stun.with_attribute(
        stun.with_integrity(stun.message(stun.REQUEST), world.PWD), stun.USERNAME, USER
    )
    late = stun.with_fingerprint(late)
    yield dropped(family, "USERNAME after integrity", Reason.DROP_STUN_NO_USERNAME, late)
    empty, unknown = Reason.DROP_STUN_USERNAME_EMPTY, Reason.DROP_UNKNOWN_UFRAG
    colonless, long = Reason.DROP_STUN_USERNAME_NO_COLON, Reason.DROP_STUN_USERNAME_TOO_LONG
    bad = {
        "empty": (empty, message(b"")),
        "first empty, second good": (empty, message(b"", USER)),
        "without a colon": (colonless, message(ALICE)),
        "of one letter": (colonless, message(b"a")),
        "of 32 letters without a colon": (colonless, message(b"u" * 32)),
        "of 512 letters without a colon": (colonless, message(b"u" * 512)),
        "with a ufrag of 33": (colonless, message(b"u" * 33 + b":peer")),
        "with a zero behind the ufrag": (colonless, message(ALICE + b"\0:peer")),
        "of 513": (long, message((USER + b"x" * 513)[:513])),
        "of 1200": (long, message((USER + b"x" * 1200)[:1200])),
        "of a colon": (unknown, message(b":")),
        "of a colon and a peer": (unknown, message(b":peer")),
        "with a part of a ufrag": (unknown, message(ALICE[:-1] + b":peer")),
        "with more than a ufrag": (unknown, message(ALICE + b"x:peer")),
        "in other letters": (unknown, message(ALICE.upper() + b":peer")),
        "the wrong way round": (unknown, message(b"peer:" + ALICE)),
        "of a stranger, then a good one": (unknown, message(b"mallory0:peer", USER)),
    }
    for what, (reason, raw) in bad.items():
        yield dropped(family, f"USERNAME {what}", reason, raw)
    good = {
        "without a peer": message(ALICE + b":"),
        "with two colons": message(USER + b":more"),
        "of 512": message((USER + b"x" * 512)[:512]),
        "first good, second of a stranger": message(USER, b"mallory0:peer"),
        "first good, second of another session": message(USER, world.BOB + b":peer"),
        "of odd length": message(USER + b"y"),
    }
    for what, raw in good.items():
        yield binds(family, f"USERNAME {what}", raw)
    longest = message(world.LONGEST + b":peer")
    yield binds(family, "USERNAME with a ufrag of 32", longest, world.LONGEST)


def _not_requests(family: Family) -> Iterator[Case]:
    """They carry no USERNAME, or it means nothing: by flow, or not at all (RFC 8445)."""
    kinds = {
        "indication": stun.message(stun.INDICATION),
        "response": stun.with_fingerprint(stun.with_integrity(stun.message(stun.RESPONSE), world.PWD)),
        "error response": stun.message(stun.ERROR, [(0x0009, b"\0\0\4\1")]),
        "goog ping": stun.message(stun.GOOG_PING),
        "indication with a USERNAME": stun.message(stun.INDICATION, [(stun.USERNAME, USER)]),
        "indication with a lying attribute": stun.header(stun.INDICATION, 4) + b"\0\6\xff\xff",
    }
    for what, message in kinds.items():
        yield from both_ways(family, what, message)
        alone = from_client(family, message).frame()
        yield Case(f"v{family.version} {what} without a flow", Reason.DROP_NO_FLOW, alone)
    # A transceiver's own check: forwarded like the rest, never bound.
    check = replace(from_backend(family, stun.request(b"peer:" + ALICE, b"p" * 22)))
    changes: tuple[Change, ...] = (counted_down(family.live, check.ip_bytes),)
    yield Case(
        f"v{family.version} request down",
        Reason.FORWARD_TO_CLIENT,
        check.frame(),
        link=BACKENDS,
        out=to_client(check, family),
        arrange=(established(family),),
        changes=changes,
    )
