# SPDX-License-Identifier: Apache-2.0
"""Rows about packets of a flow: what is rewritten and what is kept, and who may not use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

from control.abi import FlowState, Reason
from control.addresses import Endpoint
from tests.bpf import world
from tests.bpf.case import (
    DTLS,
    RTCP,
    RTP,
    Case,
    counted_down,
    counted_up,
    established,
    from_backend,
    from_client,
    in_state,
    to_backend,
    to_client,
)
from tests.bpf.packets import Datagram, parse
from tests.bpf.rig import Rig, flow_key
from tests.bpf.rows_stun import both_ways
from tests.bpf.world import BACKENDS, V4, Family


def rows() -> Iterator[Case]:
    for family in world.FAMILIES:
        for what, payload in (("rtp", RTP), ("rtcp", RTCP), ("dtls", DTLS)):
            yield from both_ways(family, what, payload)
        for size in (1, 2, 3, 160, 161, world.MTU - family.overhead):
            yield from both_ways(family, f"payload of {size}", (RTP * 30)[:size])
        yield from _kept_fields(family)
        yield from _checksums(family)
        yield from _strangers(family)
        yield from _states(family)
        yield from _hops(family)
        yield from _absent_numbers(family)
        yield from _index(family)
    yield from _second_relay()


def _up(family: Family, name: str, datagram: Datagram) -> Case:
    return Case(
        f"v{family.version} {name} up",
        Reason.FORWARD_TO_TRANSCEIVER,
        datagram.frame(),
        out=to_backend(datagram, family, family.live),
        counted=datagram.ip_bytes,
        arrange=(established(family),),
        changes=(counted_up(family.live, datagram.ip_bytes),),
    )


def _down(family: Family, name: str, datagram: Datagram) -> Case:
    return Case(
        f"v{family.version} {name} down",
        Reason.FORWARD_TO_CLIENT,
        datagram.frame(),
        link=BACKENDS,
        out=to_client(datagram, family),
        counted=datagram.ip_bytes,
        arrange=(established(family),),
        changes=(counted_down(family.live, datagram.ip_bytes),),
    )


def _kept_fields(family: Family) -> Iterator[Case]:
    changes: dict[str, Callable[[Datagram], Datagram]] = {
        "tos ef": lambda good: replace(good, tos=0xB8),
        "tos with ecn": lambda good: replace(good, tos=0xBB),
        "tos 255": lambda good: replace(good, tos=0xFF),
        "ttl 2": lambda good: replace(good, ttl=2),
        "ttl 255": lambda good: replace(good, ttl=255),
        "ethernet padding": lambda good: replace(good, payload=RTP[:4], padding=b"pad" * 6),
    }
    if family is V4:
        changes["id 0 without df"] = lambda good: replace(good, ident=0, fragment=0)
        changes["reserved bit"] = lambda good: replace(good, fragment=0x8000)
    else:
        changes["flow label"] = lambda good: replace(good, flow_label=0xABCDE)
    for what, change in changes.items():
        yield _up(family, what, change(from_client(family)))
        yield _down(family, what, change(from_backend(family)))


def _checksums(family: Family) -> Iterator[Case]:
    """The ends of one's complement arithmetic, and sums that do not hold."""
    if family is V4:
        yield _up(family, "checksum 0", replace(from_client(family), checksum=False))
        yield _down(family, "checksum 0", replace(from_backend(family), checksum=False))
    # A payload by which the sum of what goes out is 0, which must be sent as 0xffff; and one
    # by which that of what came in is.
    for what, good, out, case in (
        ("up", from_client(family), lambda d: to_backend(d, family, family.live), _up),
        ("down", from_backend(family), lambda d: to_client(d, family), _down),
    ):
        for side, made in (("out", out), ("in", Datagram.frame)):
            blank = replace(good, payload=RTP[:12] + bytes(2))
            check = _udp_check(made(blank))
            payload = blank.payload[:12] + check.to_bytes(2, "big")
            zero = replace(blank, payload=payload)
            assert _udp_check(made(zero)) == 0xFFFF
            yield case(family, f"a sum of 0 {side}, {what}", zero)
    # A damaged packet stays damaged: the program must not make it good.
    for case in (_up, _down):
        sound = case(
            family, "damaged on the way", from_client(family) if case is _up else from_backend(family)
        )
        assert sound.out
        yield replace(sound, frame=_damaged(sound.frame), out=_damaged(sound.out))


def _damaged(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 0x55])


def _udp_check(frame: bytes) -> int:
    offset = 40 if parse(frame).src.version == 4 else 60
    return int.from_bytes(frame[offset : offset + 2], "big")


def _strangers(family: Family) -> Iterator[Case]:
    name = f"v{family.version}"
    good, down = from_client(family), from_backend(family)
    client, neighbour = family.client, family.quiet
    for what, stranger in (
        ("another address", replace(good, src=neighbour.address)),
        ("another port", replace(good, sport=client.port + 1)),
        ("port 0", replace(good, sport=0)),
    ):
        frame = stranger.frame()
        yield Case(f"{name} media from {what}", Reason.DROP_NO_FLOW, frame, arrange=(established(family),))
    spoofed = Reason.DROP_SPOOFED_SOURCE
    for what, address in (("the vip", family.vip.address), ("the relay", family.relay)):
        frame = replace(good, src=address).frame()
        yield Case(f"{name} media from {what}'s address", spoofed, frame, arrange=(established(family),))
        frame = replace(down, src=address).frame()
        yield Case(
            f"{name} media to a relay port from {what}'s address",
            spoofed,
            frame,
            link=BACKENDS,
            arrange=(established(family),),
        )
        unbound = replace(down, src=address, dport=world.PORTS.last).frame()
        yield Case(f"{name} media to a free relay port from {what}'s address", spoofed, unbound)
    other = world.BACKEND_ENDPOINTS[family.backends.other]
    usual = world.BACKEND_ENDPOINTS[family.backends.usual]
    for what, source in (
        ("another transceiver", other),
        ("another port of the transceiver", Endpoint(usual.address, usual.port + 1)),
        ("the transceiver's port of another host", Endpoint(other.address, usual.port)),
        ("the client", client),
    ):
        frame = replace(down, src=source.address, sport=source.port).frame()
        yield Case(
            f"{name} to a relay port from {what}",
            Reason.DROP_WRONG_BACKEND,
            frame,
            link=BACKENDS,
            arrange=(established(family),),
        )
    for port in (world.PORTS.first, world.PORTS.last):
        frame = replace(down, dport=port).frame()
        yield Case(f"{name} to free relay port {port}", Reason.DROP_NO_RELAY_FLOW, frame, link=BACKENDS)


def _states(family: Family) -> Iterator[Case]:
    up, down = from_client(family).frame(), from_backend(family).frame()
    for state in FlowState:
        if state is FlowState.LIVE:
            continue
        arrange = (in_state(family, state),)
        name = f"v{family.version} {state.name.lower()}"
        yield Case(f"{name} record up", Reason.DROP_NO_FLOW, up, arrange=arrange)
        spoofed = replace(from_client(family), src=family.vip.address).frame()
        yield Case(f"{name} record up, spoofed", Reason.DROP_SPOOFED_SOURCE, spoofed, arrange=arrange)
        # Whatever else is entered for the 5-tuple, the flow is found that lives.
        good = from_client(family)
        yield Case(
            f"{name} record of the client of a flow, up",
            Reason.FORWARD_TO_TRANSCEIVER,
            up,
            out=to_backend(good, family, family.live + 1),
            arrange=(*arrange, lambda rig: rig.put_flow(family, family.live + 1)),
            changes=(counted_up(family.live + 1, good.ip_bytes),),
        )
        reason = {
            FlowState.FREE: Reason.DROP_NO_RELAY_FLOW,
            FlowState.BINDING: Reason.DROP_NO_RELAY_FLOW,
            FlowState.PROVISIONAL: Reason.DROP_PROVISIONAL,
        }.get(state, Reason.DROP_STALE_FLOW)
        yield Case(f"{name} record down", reason, down, link=BACKENDS, arrange=arrange)
        spoofed = replace(from_backend(family), src=family.vip.address).frame()
        yield Case(
            f"{name} record down, spoofed",
            Reason.DROP_SPOOFED_SOURCE,
            spoofed,
            link=BACKENDS,
            arrange=arrange,
        )


def _hops(family: Family) -> Iterator[Case]:
    name, backends = f"v{family.version}", family.backends

    def flow(backend: int, hop: int = world.TO_CLIENT) -> tuple[Callable[[Rig], None]]:
        return (lambda rig: rig.put_flow(family, backend=backend, hop=hop),)

    up, down = from_client(family), from_backend(family)
    unresolved = Reason.DROP_HOP_UNRESOLVED
    yield Case(f"{name} hop unresolved up", unresolved, up.frame(), arrange=flow(backends.unresolved))
    yield Case(
        f"{name} hop unresolved down",
        unresolved,
        down.frame(),
        link=BACKENDS,
        arrange=flow(backends.usual, world.UNRESOLVED),
    )
    # One-armed: back out by the link that it came by.
    yield Case(
        f"{name} one-armed up",
        Reason.FORWARD_TO_TRANSCEIVER,
        up.frame(),
        action="TX",
        out=to_backend(up, family, family.live, backend=backends.near, link=world.CLIENTS),
        arrange=flow(backends.near),
        changes=(counted_up(family.live, up.ip_bytes),),
    )
    near = from_backend(family, backend=backends.near)
    yield Case(
        f"{name} one-armed down",
        Reason.FORWARD_TO_CLIENT,
        near.frame(),
        action="TX",
        out=to_client(near, family),
        arrange=flow(backends.near),
        changes=(counted_down(family.live, near.ip_bytes),),
    )
    most = world.NARROW_MTU - family.overhead
    fits = from_client(family, (RTP * 2)[:most])
    yield Case(
        f"{name} as large as the mtu up",
        Reason.FORWARD_TO_TRANSCEIVER,
        fits.frame(),
        out=to_backend(fits, family, family.live, backend=backends.narrow),
        arrange=flow(backends.narrow),
        changes=(counted_up(family.live, world.NARROW_MTU),),
    )
    large = from_client(family, (RTP * 2)[: most + 1]).frame()
    yield Case(f"{name} larger than the mtu up", Reason.DROP_TOO_BIG, large, arrange=flow(backends.narrow))
    large = from_backend(family, (RTP * 2)[: most + 1]).frame()
    yield Case(
        f"{name} larger than the mtu down",
        Reason.DROP_TOO_BIG,
        large,
        link=BACKENDS,
        arrange=flow(backends.usual, world.NARROW),
    )


def _absent_numbers(family: Family) -> Iterator[Case]:
    """What only a broken map can say. The packet must come out as it went in."""
    name, aborted = f"v{family.version}", Reason.ABORTED_BAD_NUMBER
    up, down = from_client(family).frame(), from_backend(family).frame()

    def flow(**other: int) -> tuple[Callable[[Rig], None]]:
        return (lambda rig: rig.put_flow(family, **other),)

    def vip(rig: Rig) -> None:
        rig.put_flow(replace(family, vip_number=200))

    def relay(rig: Rig) -> None:
        rig.put_local_number(family.relay, 200)

    yield Case(f"{name} absent backend up", aborted, up, arrange=flow(backend=world.ABSENT_BACKEND))
    yield Case(
        f"{name} absent backend down",
        aborted,
        down,
        link=BACKENDS,
        arrange=flow(backend=world.ABSENT_BACKEND),
    )
    yield Case(f"{name} absent hop up", aborted, up, arrange=flow(backend=family.backends.absent_hop))
    yield Case(f"{name} absent hop down", aborted, down, link=BACKENDS, arrange=flow(hop=world.ABSENT_HOP))
    yield Case(f"{name} absent record down", aborted, down, link=BACKENDS, arrange=(relay,))
    yield Case(f"{name} absent vip down", aborted, down, link=BACKENDS, arrange=(vip,))


def _index(family: Family) -> Iterator[Case]:
    """What a search meets on the way: entries that lead nowhere or to others, and the lock of who binds."""
    name, key = f"v{family.version} index:", flow_key(family, family.client)
    up, down = from_client(family), from_backend(family)

    def absent(rig: Rig) -> None:
        rig.entries.put(key, world.ABSENT_RECORD)

    def another(rig: Rig) -> None:
        """A record of another client, whose tag might be the same."""
        rig.put_flow(family, family.live + 1, client=family.distant)
        rig.entries.put(key, family.live + 1)

    def other_vip(rig: Rig) -> None:
        """The same client on another VIP."""
        absent(rig)
        rig.put_flow(replace(family, vip=world.SECOND_VIP, vip_number=2), family.live + 1)
        rig.entries.put(key, family.live + 1)

    def many(rig: Rig) -> None:
        for number in range(world.RECORDS, world.RECORDS + 13):
            rig.entries.put(key, number)

    def full(rig: Rig) -> None:
        rig.entries.fill()

    def locked(rig: Rig) -> None:
        rig.entries.lock()

    ways = {
        "an absent record": absent,
        "another client's": another,
        "another vip's": other_vip,
        "13 absent": many,
    }
    for what, arrange in ways.items():
        yield Case(f"{name} {what} for the client", Reason.DROP_NO_FLOW, up.frame(), arrange=(arrange,))
    ways |= {"full but for the flow": full, "locked": locked}
    for what, arrange in ways.items():
        first = (established(family), arrange) if what.startswith("full") else (arrange, established(family))
        yield Case(
            f"{name} {what}, and the flow, up",
            Reason.FORWARD_TO_TRANSCEIVER,
            up.frame(),
            out=to_backend(up, family, family.live),
            arrange=first,
            changes=(counted_up(family.live, up.ip_bytes),),
        )
    yield Case(
        f"{name} locked, and the flow, down",
        Reason.FORWARD_TO_CLIENT,
        down.frame(),
        link=BACKENDS,
        out=to_client(down, family),
        arrange=(established(family), locked),
        changes=(counted_down(family.live, down.ip_bytes),),
    )
    # None of its entries is at home: it is found as long as they are counted, and by who reads the count.
    for arrange, what in ((full, "full"), (locked, "locked")):
        yield Case(f"{name} {what}, and no flow", Reason.DROP_NO_FLOW, up.frame(), arrange=(arrange,))


def _second_relay() -> Iterator[Case]:
    """A record on the second relay address of a family."""
    record = 42
    up, down = from_client(V4), from_backend(V4, record=record)
    assert down.dst == ip_address("10.20.0.2")
    arrange = (lambda rig: rig.put_flow(V4, record),)
    yield Case(
        "v4 second relay address up",
        Reason.FORWARD_TO_TRANSCEIVER,
        up.frame(),
        out=to_backend(up, V4, record),
        arrange=arrange,
        changes=(counted_up(record, up.ip_bytes),),
    )
    yield Case(
        "v4 second relay address down",
        Reason.FORWARD_TO_CLIENT,
        down.frame(),
        link=BACKENDS,
        out=to_client(down, V4),
        arrange=arrange,
        changes=(counted_down(record, down.ip_bytes),),
    )
    first = replace(down, dst=V4.relay).frame()
    yield Case(
        "v4 the same port of the first relay address",
        Reason.DROP_NO_RELAY_FLOW,
        first,
        link=BACKENDS,
        arrange=arrange,
    )
