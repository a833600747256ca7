# SPDX-License-Identifier: Apache-2.0
"""Random damage to good packets: whatever comes in, one reason moves and no byte is written in vain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.abi import Reason
from tests.bpf import stun, world
from tests.bpf.case import DTLS, RTP, from_backend, from_client, request
from tests.bpf.packets import ETHERNET_BYTES, Datagram, parse, with_extensions, with_vlan
from tests.bpf.rig import Outcome, Rig
from tests.bpf.world import V6

pytestmark = [pytest.mark.root, pytest.mark.netns]

# The rig stays loaded; each example resets its maps itself.
example_run = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

FORWARDED = ("TX", "REDIRECT")


def good_frames() -> list[tuple[bytes, str]]:
    """Frames of every kind, and the links that they come by."""
    frames: list[tuple[bytes, str]] = []
    for family in world.FAMILIES:
        frames += [
            (request(family).frame(), world.CLIENTS),
            (request(family, world.BOB).frame(), world.CLIENTS),
            (request(family, client=family.quiet).frame(), world.CLIENTS),
            (from_client(family, stun.message(stun.RESPONSE)).frame(), world.CLIENTS),
            *((from_client(family, payload).frame(), world.CLIENTS) for payload in (RTP, DTLS)),
            *((from_backend(family, payload).frame(), world.BACKENDS) for payload in (RTP, DTLS)),
        ]
    frames.append((with_vlan(frames[0][0]), world.CLIENTS))
    frames.append((with_extensions(request(V6).frame(), [(60, bytes(8)), (44, bytes(8))]), world.CLIENTS))
    return frames


GOOD = good_frames()


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, str]:
    """A good frame with some bytes changed, most often in its headers, and perhaps cut or made longer."""
    frame, link = draw(st.sampled_from(GOOD))
    raw = bytearray(frame)
    positions = st.one_of(st.integers(0, min(99, len(raw) - 1)), st.integers(0, len(raw) - 1))
    for position in draw(st.lists(positions, max_size=6)):
        raw[position] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del raw[draw(st.integers(ETHERNET_BYTES, len(raw))) :]
    raw += draw(st.binary(max_size=20))
    return bytes(raw), link


def check(rig: Rig, outcome: Outcome, frame: bytes) -> None:
    """What holds of any packet, and of maps that are sound."""
    reason = outcome.reason  # exactly one moved
    assert reason.name.startswith(("PASS", "DROP", "FORWARD")), reason
    assert len(outcome.frame) == len(frame)
    if outcome.action in FORWARDED:
        assert reason.name.startswith("FORWARD")
        assert outcome.frame != frame
        return
    assert outcome.action == reason.name.partition("_")[0]
    assert outcome.frame == frame
    if reason.name.startswith("PASS"):
        before, after = outcome.before, outcome.after
        after.packets, after.bytes = before.packets, before.bytes
        outcome.assert_state(before)


@example_run
@given(damaged())
def test_damaged_frames(rig: Rig, sent: tuple[bytes, str]) -> None:
    frame, link = sent
    rig.reset()
    for family in world.FAMILIES:
        rig.put_flow(family)
    check(rig, rig.run(frame, link), frame)


@example_run
@given(st.binary(min_size=ETHERNET_BYTES, max_size=200))
def test_noise(rig: Rig, frame: bytes) -> None:
    rig.reset()
    outcome = rig.run(frame)
    check(rig, outcome, frame)
    assert outcome.action == "PASS"


@example_run
@given(
    st.sampled_from(world.FAMILIES),
    st.binary(max_size=600),
    st.sampled_from(["raw", "stun", "request", "sealed"]),
)
def test_any_payload(rig: Rig, family: world.Family, payload: bytes, form: str) -> None:
    """Sound headers, any payload: raw, behind a sound STUN header, or behind a good USERNAME too.

    None of them knows the secret, even where FINGERPRINT holds.
    """
    rig.reset()
    if form != "raw":
        payload = payload[: len(payload) // 4 * 4]
        user = stun.attribute(stun.USERNAME, world.ALICE + b":peer") if form != "stun" else b""
        payload = stun.header(stun.REQUEST, len(user + payload)) + user + payload
    if form == "sealed":
        payload = stun.with_fingerprint(payload)
    datagram = from_client(family, payload)
    outcome = rig.run(datagram.frame())
    check(rig, outcome, datagram.frame())
    assert outcome.action in ("DROP", "PASS")
    if form == "sealed":
        assert outcome.reason != Reason.DROP_STUN_FINGERPRINT


@st.composite
def attributes(draw: st.DrawFn) -> list[stun.Attribute]:
    """What a stranger agent may send beside USERNAME, in any number that is looked at, of any length."""
    ours = {stun.USERNAME, stun.MESSAGE_INTEGRITY, stun.FINGERPRINT}
    kinds = st.integers(0, 0xFFFF).filter(lambda kind: kind not in ours)
    drawn = draw(st.lists(st.tuples(kinds, st.binary(max_size=100)), max_size=12))
    drawn.insert(draw(st.integers(0, len(drawn))), (stun.USERNAME, world.ALICE + b":peer"))
    return drawn


@example_run
@given(st.sampled_from(world.FAMILIES), attributes(), st.binary(min_size=12, max_size=12), st.data())
def test_any_signed_request(
    rig: Rig, family: world.Family, sent: list[stun.Attribute], transaction: bytes, data: st.DataObject
) -> None:
    """Who knows the secret gets a flow, whatever else is in the message; changed anywhere, it does not."""
    message = stun.signed(stun.message(stun.REQUEST, sent, transaction=transaction), world.PWD)
    rig.reset()
    datagram = from_client(family, message)
    outcome = rig.run(datagram.frame())
    check(rig, outcome, datagram.frame())
    assert outcome.reason == Reason.FORWARD_BOUND
    assert_sound(outcome, datagram)
    # Beyond the 20 bytes of header, and in front of FINGERPRINT, which is made to hold again.
    changed = bytearray(message[:-8])
    at = data.draw(st.integers(stun.HEADER_BYTES, len(changed) - 1), label="changed at")
    changed[at] ^= data.draw(st.integers(1, 255), label="by")
    rig.reset()
    frame = from_client(family, stun.with_fingerprint(bytes(changed))).frame()
    outcome = rig.run(frame)
    check(rig, outcome, frame)
    assert outcome.action == "DROP"


@example_run
@given(
    st.sampled_from(world.FAMILIES),
    st.sampled_from([from_client, from_backend]),
    st.binary(min_size=1, max_size=1400),
    st.integers(2, 255),
    st.integers(0, 255),
    st.integers(1, 65535),
)
def test_any_sound_datagram(
    rig: Rig,
    family: world.Family,
    make: Callable[..., Datagram],
    rest: bytes,
    ttl: int,
    tos: int,
    port: int,
) -> None:
    """Whatever its length and its bytes, media of a flow arrives with checksums that hold."""
    client = family.client._replace(port=port)
    rig.reset()
    rig.put_flow(family, client=client)
    payload = b"\x80" + rest
    datagram = from_client(family, payload, client=client) if make is from_client else make(family, payload)
    datagram = replace(datagram, ttl=ttl, tos=tos)
    outcome = rig.run(datagram.frame(), world.CLIENTS if make is from_client else world.BACKENDS)
    assert outcome.action in FORWARDED
    assert_sound(outcome, datagram)


def assert_sound(outcome: Outcome, datagram: Datagram) -> None:
    """All that must stay has stayed, and the checksums hold."""
    sent = parse(outcome.frame)
    assert (sent.payload, sent.tos, sent.ident) == (
        datagram.payload,
        datagram.tos,
        datagram.ident if sent.src.version == 4 else 0,
    )
    assert sent.ttl == datagram.ttl - 1
