# SPDX-License-Identifier: Apache-2.0
"""Captured calls replayed through the program, in both directions, to the last byte."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from control import abi
from control.abi import Reason
from control.addresses import Endpoint
from control.hmac_keys import key_states
from tests.bpf import pcap, stun, world
from tests.bpf.case import to_backend
from tests.bpf.packets import ETHERNET_BYTES, Datagram, parse
from tests.bpf.rig import Rig, flow_key
from tests.bpf.world import BACKEND_ENDPOINTS, LINK_MACS, V4

pytestmark = [pytest.mark.root, pytest.mark.netns]

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
NAMES = ("aiortc", "chromium", "chromium_lite", "gstreamer", "werift")
CALL = replace(V4, vip=world.CAPTURED_VIP, vip_number=world.VIPS.index(world.CAPTURED_VIP))
SESSION = 20
KINDS = {"stun": range(4), "dtls": range(20, 64), "rtp": range(128, 192)}


def kind(datagram: Datagram) -> str:
    return next(name for name, firsts in KINDS.items() if datagram.payload[0] in firsts)


class Replay:
    """One call: what was sent, and what must have been counted for it."""

    def __init__(self, rig: Rig, pwds: dict[bytes, bytes]) -> None:
        self.rig = rig
        self.pwds = pwds  # by server ufrag
        self.requests = 0  # of the client's
        self.records: dict[int, int] = {}  # by the client's port
        self.reasons: Counter[Reason] = Counter()
        self.up: Counter[int] = Counter()
        self.down: Counter[int] = Counter()
        self.bytes: Counter[tuple[int, str]] = Counter()
        self.kinds: Counter[tuple[str, str]] = Counter()

    def from_client(self, frame: bytes) -> None:
        datagram = parse(frame)
        if datagram.payload[:2] == stun.REQUEST.to_bytes(2, "big"):
            user = stun.username(datagram.payload)
            assert user
            assert stun.holds(datagram.payload, self.pwds[user.partition(b":")[0]])
            self.requests += 1
            self._damage(datagram)
        ran = self.rig.send(frame, world.CLIENTS)
        reason = Reason.FORWARD_TO_TRANSCEIVER
        if datagram.sport not in self.records:
            # A client's first packet on a port is a request for a session that is known.
            assert self.requests
            key = flow_key(CALL, Endpoint(datagram.src, datagram.sport))
            [self.records[datagram.sport]] = self.rig.entries.records(key)
            reason = Reason.FORWARD_BOUND
        record = self.records[datagram.sport]
        assert ran.action == "REDIRECT"
        assert ran.data == to_backend(datagram, CALL, record)
        self.reasons[reason] += 1
        self.up[record] += 1
        self.bytes[record, "up_bytes"] += datagram.ip_bytes
        self.kinds["up", kind(datagram)] += 1

    def _damage(self, good: Datagram) -> None:
        """The same request by somebody who does not know the pwd, and damaged, gets nowhere."""
        found = {kind: offset for offset, kind, _ in stun.attributes(good.payload)}
        forged = stun.signed(good.payload[: found[stun.MESSAGE_INTEGRITY]], b"guessed")
        damaged = good.payload[:-1] + bytes([good.payload[-1] ^ 1])
        for payload, reason in (
            (forged, Reason.DROP_STUN_INTEGRITY),
            (damaged, Reason.DROP_STUN_FINGERPRINT),
        ):
            frame = replace(good, payload=payload).frame()
            ran = self.rig.send(frame, world.CLIENTS)
            assert (ran.action, ran.data) == ("DROP", frame)
            self.reasons[reason] += 1

    def from_transceiver(self, frame: bytes) -> None:
        """Sends what the relay must have been sent, and expects what the client was sent."""
        datagram = parse(frame)
        record = self.records[datagram.dport]
        source = BACKEND_ENDPOINTS[CALL.backends.usual]
        sent = replace(
            datagram,
            src=source.address,
            sport=source.port,
            dst=world.relay_of(record),
            dport=CALL.relay_port(record),
            ttl=datagram.ttl + 1,
        )
        ran = self.rig.send(sent.frame(), world.BACKENDS)
        assert ran.action == "REDIRECT"
        assert ran.data[ETHERNET_BYTES:] == frame[ETHERNET_BYTES:]
        assert ran.data[:12] == world.GATEWAY_MAC + LINK_MACS[world.CLIENTS]
        self.reasons[Reason.FORWARD_TO_CLIENT] += 1
        self.down[record] += 1
        self.bytes[record, "down_bytes"] += datagram.ip_bytes
        self.kinds["down", kind(datagram)] += 1

    def check_counters(self, before: list[int]) -> None:
        state = self.rig.snapshot()
        moved = {
            Reason(number): new - old
            for number, (old, new) in enumerate(zip(before, state.packets, strict=True))
            if new != old
        }
        assert moved == dict(self.reasons)
        live = np.flatnonzero(state.flows["state"])
        assert set(live) == set(self.records.values())
        for record in live.tolist():
            flow = state.flows[record]
            assert flow["session"] == SESSION
            assert flow["up_packets"] == self.up[record]
            assert flow["down_packets"] == self.down[record]
            for name in ("up_bytes", "down_bytes"):
                assert flow[name] == self.bytes[record, name]


@pytest.mark.parametrize("name", NAMES)
def test_replay(rig: Rig, name: str) -> None:
    told = json.loads((CAPTURES / f"{name}.json").read_text())
    parts = [part for part in (told, told.get("restart")) if part]
    pwds = {part["server_ufrag"].encode(): part["server_pwd"].encode() for part in parts}
    register(rig, pwds)
    before = rig.snapshot().packets
    replay = Replay(rig, pwds)
    packets = 0
    for frame in pcap.frames(CAPTURES / f"{name}.pcap"):
        packets += 1
        if frame[30:34] == CALL.vip.address.packed:
            replay.from_client(frame)
        else:
            replay.from_transceiver(frame)
    assert replay.requests
    assert sum(replay.reasons.values()) == packets + 2 * replay.requests
    assert len(replay.records) == len(pwds)  # a restart came from another port
    assert all(replay.kinds[way, kind] for way in ("up", "down") for kind in KINDS)
    replay.check_counters(before)


def test_no_capture_is_left_out() -> None:
    assert {path.stem for path in CAPTURES.glob("*.pcap")} == set(NAMES)


def register(rig: Rig, pwds: dict[bytes, bytes]) -> None:
    """One session of these ufrags, at the usual backend."""
    keys = np.array([(ufrag,) for ufrag in pwds], abi.UFRAG_KEY)
    values = np.zeros(len(keys), abi.SESSION)
    values["number"] = SESSION
    values["backend"] = (CALL.backends.usual, 0)
    values["flags"] = abi.SessionFlag.HAS_PWD
    values["inner"], values["outer"] = key_states(list(pwds.values()))
    assert rig.datapath.put_sessions(keys, values) == len(keys)
