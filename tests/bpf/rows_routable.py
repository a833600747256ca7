# SPDX-License-Identifier: Apache-2.0
"""Rows about ufrags that say themselves whose they are: docs/routable-ufrag.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
    superseded,
    to_backend,
)
from tests.bpf.world import FLEET_KEYS, FLEET_OWNERS, Family, Routable, routable

FORGED, UNKNOWN = Reason.DROP_UFRAG_FORGED, Reason.DROP_UNKNOWN_UFRAG
NOBODY, INTEGRITY = Reason.DROP_UNKNOWN_OWNER, Reason.DROP_STUN_INTEGRITY
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
LARGEST = (1 << 31) - 1, (1 << 11) - 1  # session and nonce


def rows() -> Iterator[Case]:
    for family in world.FAMILIES:
        yield from _let_in(family)
        yield from _turned_away(family)
        yield from _with_a_flow(family)
        yield from _budgets(family)


def _request(said: Routable, pwd: bytes | None = None) -> bytes:
    return stun.request(said.ufrag + b":peer", pwd or said.pwd)


def _binds(family: Family, name: str, said: Routable) -> Case:
    datagram = from_client(family, _request(said))
    record = family.free[0]
    backend = said.session.backends[family.index]
    return Case(
        f"v{family.version} routable: {name}",
        Reason.FORWARD_BOUND,
        datagram.frame(),
        out=to_backend(datagram, family, record, backend=backend),
        changes=(
            new_hop(family.client.address),
            bound(family, session=said.session),
            counted_up(record, datagram.ip_bytes),
        ),
    )


def _dropped(family: Family, name: str, reason: Reason, message: bytes) -> Case:
    frame = from_client(family, message).frame()
    return Case(
        f"v{family.version} routable: {name}",
        reason,
        frame,
        changes=(charged_source(family.client.address),),
    )


def _let_in(family: Family) -> Iterator[Case]:
    """Each key, each end of each field, and pwds that have every character of base64 in each place."""
    for number, key in FLEET_KEYS.items():
        yield _binds(family, f"key {number}", routable(key))
    for session, nonce in ((0, 0), LARGEST, (1, 0), (0, 1)):
        yield _binds(family, f"session {session}, nonce {nonce}", routable(session=session, nonce=nonce))
    for owner in FLEET_OWNERS:
        if FLEET_OWNERS[owner][family.index]:
            yield _binds(family, f"owner {owner}", routable(owner=owner, session=owner))
    for said in _every_character():
        yield _binds(family, f"pwd {said.pwd.decode()}", said)


def _every_character() -> list[Routable]:
    """Few ufrags, in whose own or whose pwds' characters each of the alphabet is found."""
    chosen, wanted = [], {("ufrag", c) for c in ALPHABET} | {("pwd", c) for c in ALPHABET}
    for session in range(1000):
        said = routable(session=session * 7919)
        new = wanted & ({("ufrag", c) for c in said.ufrag} | {("pwd", c) for c in said.pwd})
        if new:
            chosen.append(said)
            wanted -= new
        if not wanted:
            return chosen
    raise AssertionError(f"not found: {wanted}")


def _turned_away(family: Family) -> Iterator[Case]:
    good = routable()
    for at in range(len(good.ufrag)):
        # The first characters: version and key number; what is behind them the tag covers.
        other = ALPHABET[(ALPHABET.index(good.ufrag[at]) + 1) % 64]
        changed = good._replace(ufrag=good.ufrag[:at] + bytes([other]) + good.ufrag[at + 1 :])
        reason = UNKNOWN if at == 0 else FORGED
        yield _dropped(family, f"character {at} changed", reason, _request(changed))
    for character in b"-_=. \x80\xff":
        strange = good._replace(ufrag=good.ufrag[:5] + bytes([character]) + good.ufrag[6:])
        yield _dropped(family, f"with {bytes([character])!r} in it", UNKNOWN, _request(strange))
    for version in (1, 2, 3):
        first = ALPHABET[version << 4]
        yield _dropped(
            family,
            f"version {version}",
            UNKNOWN,
            _request(good._replace(ufrag=bytes([first]) + good.ufrag[1:])),
        )
    for size in (15, 17, 32):
        longer = good._replace(ufrag=(good.ufrag * 2)[:size])
        yield _dropped(family, f"of {size} characters", UNKNOWN, _request(longer))
    yield _dropped(
        family, "a key that is not here", UNKNOWN, _request(routable(world.FLEET_KEY_GONE, session=3))
    )
    forged = routable(replace(FLEET_KEYS[0], secret=bytes(32)), session=4)
    yield _dropped(family, "another key of that number", FORGED, _request(forged))
    gone = routable(owner=world.FLEET_OWNER_GONE, session=5)
    yield _dropped(family, "an owner that is not here", NOBODY, _request(gone))
    yield _dropped(family, "another pwd", INTEGRITY, _request(good, b"x" * 22))
    yield _dropped(family, "the pwd of another nonce", INTEGRITY, _request(good, routable(nonce=2).pwd))
    if family.version == 6:
        only = routable(owner=700, session=6)
        yield _dropped(family, "an owner without this family", Reason.DROP_NO_BACKEND, _request(only))


def _with_a_flow(family: Family) -> Iterator[Case]:
    """The same call again, after an ICE restart, and another call from the same port."""
    name = f"v{family.version} routable:"
    said = routable()
    again = from_client(family, _request(routable(nonce=2)))

    yield Case(
        f"{name} another ufrag of the flow's session",
        Reason.FORWARD_TO_TRANSCEIVER,
        again.frame(),
        out=to_backend(again, family, family.live),
        arrange=(lambda rig: rig.put_flow(family, session=said.session.number),),
        changes=(
            new_hop(family.client.address),
            counted_up(family.live, again.ip_bytes),
            lambda state, rig: state.flows["client_hop"].__setitem__(family.live, world.FREE_HOPS[0]),
        ),
    )
    record = family.free[0]
    yield Case(
        f"{name} takes a registered session's flow over",
        Reason.FORWARD_REBOUND,
        again.frame(),
        out=to_backend(again, family, record),
        arrange=(established(family),),
        changes=(
            new_hop(family.client.address),
            bound(family, session=said.session, had_flow=True),
            superseded(family.live),
            counted_up(record, again.ip_bytes),
        ),
    )


def _budgets(family: Family) -> Iterator[Case]:
    said = routable()
    far = 1 << 62

    yield Case(
        f"v{family.version} routable: a session that has spent its budget",
        Reason.DROP_SESSION_BUDGET,
        from_client(family, _request(said)).frame(),
        arrange=(lambda rig: rig.put_derived_budget(said.session.number, far),),
        changes=(charged_source(family.client.address),),
    )
