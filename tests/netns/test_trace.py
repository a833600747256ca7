# SPDX-License-Identifier: Apache-2.0
"""`earshot trace` and `earshot capture` in known situations, and what they leave behind."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control import abi, libbpf, loader, pinned
from control.maps import MappedArray
from control.taps.tap import LEASE
from tests.lab.calls import (
    DTLS,
    RTP,
    Call,
    binding_request,
    binding_response,
    call,
    new_ufrag,
    payload,
    wait_for,
)
from tests.lab.host import run
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import BIN, endpoint, relay_target, start_relay
from tests.lab.topology import VIP_PORT, Site, two_armed
from tests.netns.command import earshot, load, site_with_program
from tests.netns.schema import assert_fits

pytestmark = [pytest.mark.root, pytest.mark.netns]

NARROW = 1300  # MTU of the relay's link to the transceiver
PATIENCE = 30.0
FIELDS = (
    "frame.interface_name frame.packet_id frame.comment ip.checksum.status udp.checksum.status udp.payload"
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab:
        made = two_armed(lab)
        made.relay.ip(f"link set dev {made.transceiver.name} mtu {NARROW}")
        start_relay(made, f"--largest-packet={NARROW}")
        yield made


@pytest.fixture(scope="module")
def bare() -> Iterator[Site]:
    with site_with_program() as made:
        yield made


@pytest.fixture
def made(site: Site, family: int) -> Iterator[Call]:
    """A registered call."""
    with (
        RelayClient(relay_target(site)) as client,
        client.attach("transceiver") as attachment,
        call(site, attachment, family) as registered,
    ):
        yield registered


def taps(site: Site) -> Any:
    """The one record of taps_v1, as it is now."""
    fd = libbpf.get_pinned(site.lab.pins / "taps_v1")
    with closing(MappedArray(fd, abi.TAPS, writable=False)) as mapped:
        os.close(fd)
        return mapped.array.copy()[0]


def lookers(site: Site) -> int:
    return int(np.count_nonzero(taps(site)["taps"]["until"] > time.monotonic_ns()))


class Looking:
    """A command that looks at packets, from when it does."""

    def __init__(self, site: Site, *argv: str) -> None:
        before = lookers(site)
        self.process = subprocess.Popen(
            site.relay.command(str(BIN / "earshot"), *argv),
            env={**os.environ, "EARSHOT_PIN_PATH": str(site.lab.pins)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(
            lambda: lookers(site) > before or self.process.poll() is not None, "the command looks", PATIENCE
        )

    def end(self, number: int = signal.SIGINT, status: int = 0) -> tuple[str, str]:
        """What it has said, on stdout and on stderr."""
        if number:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == status, err
        return out, err


@contextmanager
def looking(site: Site, *argv: str) -> Iterator[Looking]:
    started = Looking(site, *argv)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        for stream in (started.process.stdout, started.process.stderr):
            assert stream is not None
            stream.close()


def lines(out: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in out.splitlines()]
    for line in told:
        assert_fits("trace", line)
    return told


def client_of(site: Site, made: Call) -> str:
    """The socket itself is bound to no address."""
    family = 6 if ":" in made.vip[0] else 4
    return endpoint(site.addresses[family].client, made.client.getsockname()[1])


def media(size: int) -> bytes:
    """RTP, and by no chance RTCP."""
    return bytes([RTP, 111]) + os.urandom(size - 2)


def send(site: Site, count: int = 1, size: int = 20, source: tuple[str, int] = ("", 0)) -> str:
    """Media of a client that is not bound; returns the client."""
    with site.client.socket(2) as sender:
        sender.bind(source)
        sender.connect((site.addresses[4].vip, VIP_PORT))
        for _ in range(count):
            sender.send(media(size))
        return endpoint(*sender.getsockname()[:2])


def a_call_with_trouble(site: Site, made: Call) -> str:
    """Wrong pwd, unknown ufrag, bound, both ways, too large for a link. Returns the client."""
    client, vip = made.client, made.vip
    client.sendto(binding_request(made.ufrag, pwd="notThePwdThatWasRegistered"), vip)
    client.sendto(binding_request(new_ufrag()), vip)
    made.bind()
    made.down(binding_response(binding_request(made.ufrag), made.peer))
    made.up(payload(DTLS, 100))
    made.up(media(160))
    made.down(media(160))
    client.sendto(media(1400), vip)
    return client_of(site, made)


REASONS = [
    ("stun_request", "drop_stun_integrity", "DROP"),
    ("stun_request", "drop_unknown_ufrag", "DROP"),
    ("stun_request", "forward_bound", "REDIRECT"),
    ("stun_response", "forward_to_client", "REDIRECT"),
    ("dtls", "forward_to_transceiver", "REDIRECT"),
    ("rtp", "forward_to_transceiver", "REDIRECT"),
    ("rtp", "forward_to_client", "REDIRECT"),
    ("rtp", "drop_too_big", "DROP"),
]


@pytest.mark.parametrize("family", [4], indirect=True)
def test_a_flow_shows_its_last_drop(site: Site, made: Call) -> None:
    client = a_call_with_trouble(site, made)
    (flow,) = earshot(site, "flow", "list", "--client", client, "-o", "json").json
    shown = earshot(site, "flow", "show", flow["flow_id"], "-o", "json")
    assert_fits("flow show", shown.json)
    drop = shown.json["last_drop"]
    assert 0 <= drop.pop("age_s") < 60
    assert drop == {"reason": "drop_too_big", "packets": 1}
    made.transceiver.sendto(b"\xffneither RTP nor anything", made.peer)
    made.down(media(100))
    text = earshot(site, "flow", "show", flow["flow_id"]).out
    assert "drop_not_rtc" in text


def test_trace_of_one_client(site: Site, made: Call, family: int) -> None:
    with looking(site, "trace", "--client", site.addresses[family].client, "-o", "json") as trace:
        client = a_call_with_trouble(site, made)
        told = lines(trace.end()[0])
    assert [(line["class"], line["reason"], line["action"]) for line in told] == REASONS
    assert {line["event"] for line in told} == {"packet"}
    assert {line["client"] for line in told} == {client}
    vip, relay = endpoint(*made.vip), endpoint(*made.peer[:2])
    backend = endpoint(*made.transceiver.getsockname()[:2])
    up, down = told[2], told[3]
    assert (up["source"], up["destination"], up["direction"]) == (client, vip, "to_transceiver")
    assert (up["sent_source"], up["sent_destination"]) == (relay, backend)
    assert (up["interface"], up["sent_interface"]) == site.interfaces
    assert up["ufrag"] == made.ufrag
    assert (down["source"], down["destination"], down["direction"]) == (backend, relay, "to_client")
    assert (down["sent_source"], down["sent_destination"]) == (vip, client)
    assert told[0]["sent_interface"] is told[0]["sent_source"] is told[0]["sent_destination"] is None
    assert [line["time"] for line in told] == sorted(line["time"] for line in told)


@pytest.mark.parametrize("family", [4], indirect=True)
def test_trace_of_one_ufrag_as_a_table(site: Site, made: Call) -> None:
    with looking(site, "trace", "--ufrag", made.ufrag, "--count", "7") as trace:
        a_call_with_trouble(site, made)
        out, err = trace.end(number=0)
    titles, *rows = [line.split() for line in out.splitlines()]
    assert titles == ["TIME", "LINK", "FROM", "TO", "CLASS", "BYTES", "REASON", "ACTION"]
    # The request for another ufrag is not among them: its client had no flow of this session then.
    assert [row[6] for row in rows] == [reason for _, reason, _ in REASONS if reason != "drop_unknown_ufrag"]
    assert "7 packets shown; 7 packets." in err


@pytest.mark.parametrize("family", [4], indirect=True)
def test_only_drops_and_only_one_reason(site: Site, made: Call) -> None:
    with (
        looking(site, "trace", "--drops-only", "-o", "json") as drops,
        looking(site, "trace", "--reason", "drop_too_big", "-o", "json") as one,
    ):
        a_call_with_trouble(site, made)
        told, only = lines(drops.end()[0]), lines(one.end()[0])
    assert [line["reason"] for line in told] == [reason for _, reason, action in REASONS if action == "DROP"]
    assert [line["reason"] for line in only] == ["drop_too_big"]


def test_a_vip_of_another_relay(bare: Site) -> None:
    said = earshot(bare, "trace", "--vip", "203.0.113.1:9999")
    assert (said.status, said.out) == (1, "")
    assert "is no VIP of this relay" in said.err


def test_pins_of_another_layout() -> None:
    with site_with_program() as older:
        (older.lab.pins / "tap_rings_v1").unlink()
        said = earshot(older, "trace")
        assert said.status == 3
        assert "of another version" in said.err
        assert "tap_rings_v1" in said.err


def test_a_bound_of_time(bare: Site) -> None:
    said = earshot(bare, "trace", "--seconds", "0.2")
    assert (said.status, said.out) == (0, "")
    assert "0 packets shown; 0.2 s have passed." in said.err


def test_what_there_was_no_room_for_is_said(bare: Site) -> None:
    with looking(bare, "trace", "--buffer", "4", "-o", "json") as trace:
        trace.process.send_signal(signal.SIGSTOP)
        send(bare, count=300, size=400)
        trace.process.send_signal(signal.SIGCONT)
        out, err = trace.end()
    told = lines(out)
    shown = sum(line["event"] == "packet" for line in told)
    lost = sum(line["packets"] for line in told if line["event"] == "lost")
    assert shown > 0
    assert lost > 0
    assert shown + lost == 300
    assert f"{shown} packets shown, {lost} lost" in err


def test_it_follows_an_upgrade_and_ends_with_the_program() -> None:
    with site_with_program() as upgraded, looking(upgraded, "trace", "-o", "json") as trace:
        first, program = send(upgraded), pinned.attached(upgraded.lab.pins)[0].program_id
        load(upgraded).close()
        assert pinned.attached(upgraded.lab.pins)[0].program_id != program
        second = send(upgraded)
        loader.remove(upgraded.lab.pins)
        out, err = trace.end(number=0, status=4)
        assert [line["client"] for line in lines(out)] == [first, second]
        assert "detached" in err


def test_two_at_once_and_a_killed_one(bare: Site) -> None:
    with looking(bare, "trace", "--buffer", "4") as killed, looking(bare, "trace", "-o", "json") as other:
        assert lookers(bare) == 2
        killed.end(signal.SIGKILL, status=-signal.SIGKILL)
        before = taps(bare)["taps"]["lost"].sum()
        send(bare, count=100, size=400)
        # Its ring of 4 KiB would be full by now. It is gone: nothing was written, nor found no room.
        assert taps(bare)["taps"]["lost"].sum() == before
        assert len(lines(other.end()[0])) == 100
        # Nobody puts its tap off any more, and it lapses by itself.
        assert taps(bare)["taps"]["until"].max() <= time.monotonic_ns() + LEASE


def test_a_terminal_that_goes_takes_it_along(bare: Site) -> None:
    argv = bare.relay.command(str(BIN / "earshot"), "trace", "--pin-path", str(bare.lab.pins))
    before = lookers(bare)
    pid, terminal = pty.fork()
    if not pid:
        os.execvp(argv[0], argv)
    wait_for(lambda: lookers(bare) > before, "the command looks", PATIENCE)
    os.close(terminal)
    ended: list[int] = []

    def has_ended() -> bool:
        found, _ = os.waitpid(pid, os.WNOHANG)
        ended.extend([found] if found else [])
        return bool(ended)

    wait_for(has_ended, "the command has ended", PATIENCE)
    assert lookers(bare) == before


# ---- capture --------------------------------------------------------------------------------


def read(file: Path) -> list[dict[str, str]]:
    """The packets as tshark sees them; fails where it has anything to complain of."""
    fields = [part for name in FIELDS.split() for part in ("-e", name)]
    checks = ("-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
    done = subprocess.run(
        ["tshark", "-r", str(file), *checks, "-T", "fields", "-E", "separator=/t", *fields],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "cut short" not in done.stderr
    assert "damaged" not in done.stderr
    return list(csv.DictReader(done.stdout.splitlines(), FIELDS.split(), delimiter="\t"))


def test_capture_before_and_after(site: Site, made: Call, family: int, tmp_path: Path) -> None:
    file = tmp_path / "call.pcapng"
    with looking(site, "capture", str(file), "--client", site.addresses[family].client) as capture:
        client = a_call_with_trouble(site, made)
        _, err = capture.end()
    assert f"{len(REASONS)} packets in {file}" in err
    assert file.stat().st_mode & 0o777 == 0o600
    packets = read(file)
    clients, transceivers = site.interfaces
    expected = []
    for _, reason, action in REASONS:
        comment = f"{reason} {action}, client {client}"
        links = (transceivers, clients) if reason == "forward_to_client" else (clients, transceivers)
        expected.append((f"{links[0]}:in", comment))
        if action != "DROP":
            expected.append((f"{links[1]}:out", comment))
    assert [(packet["frame.interface_name"], packet["frame.comment"]) for packet in packets] == expected
    if family == 4:
        assert {packet["ip.checksum.status"] for packet in packets} == {"1"}
    assert {packet["udp.checksum.status"] for packet in packets} == {"1"}
    pairs: dict[str, list[str]] = {}
    for packet in packets:
        pairs.setdefault(packet["frame.packet_id"], []).append(packet["udp.payload"])
    assert [len(payloads) for payloads in pairs.values()] == [
        1 if action == "DROP" else 2 for *_, action in REASONS
    ]
    assert all(len(set(payloads)) == 1 for payloads in pairs.values())


def test_capture_to_a_pipe_with_a_snap_length(bare: Site, tmp_path: Path) -> None:
    file = tmp_path / "piped.pcapng"
    with looking(bare, "capture", "-", "--snaplen", "60", "--count", "3") as capture:
        send(bare, count=3, size=500)
        assert capture.process.stdout is not None
        with file.open("wb") as copy:
            copy.write(capture.process.stdout.buffer.read())
        capture.process.wait(PATIENCE)
    said = run(["tshark", "-r", str(file), "-T", "fields", "-e", "frame.len", "-e", "frame.cap_len"])
    assert said.split() == ["542", "60"] * 3


def test_a_full_disk(bare: Site, tmp_path: Path) -> None:
    before = taps(bare)["taps"]["until"].tolist()
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(tmp_path)])
    try:
        file = tmp_path / "full.pcapng"
        with looking(bare, "capture", str(file)) as capture:
            send(bare, count=200, size=600)
            _, err = capture.end(number=0, status=5)
        assert "No space left on device" in err
        there = len(read(file))
        assert 0 < there < 200
        assert "can be read" in err
        # Not even room for a beginning.
        assert earshot(bare, "capture", str(tmp_path / "none.pcapng"), "--seconds", "1").status == 5
    finally:
        run(["umount", str(tmp_path)])
    # Another's that was killed may not have lapsed yet.
    assert all(
        until in (0, old) for until, old in zip(taps(bare)["taps"]["until"].tolist(), before, strict=True)
    )


def test_a_file_that_is_there_is_not_written_over(bare: Site, tmp_path: Path) -> None:
    file = tmp_path / "old.pcapng"
    file.write_text("dear")
    said = earshot(bare, "capture", str(file), "--seconds", "0.1")
    assert (said.status, file.read_text()) == (1, "dear")
    assert "--force" in said.err
    assert earshot(bare, "capture", str(file), "--seconds", "0.1", "--force").status == 0
    assert read(file) == []
