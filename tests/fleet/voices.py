# SPDX-License-Identifier: Apache-2.0
"""Real calls by a group of relays: four transceivers that echo, clients of aiortc and of libnice.

Transceivers know all relays of the group, and each is attached to one of them. Clients tell themselves how
their calls fare (`script`), and the kernels of both ends what arrived when (`heard`).
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.lab.calls import wait_for
from tests.lab.group import TRANSCEIVER4, TRANSCEIVER6, Group, Member
from tests.lab.heard import Client, Hearing, hearing
from tests.lab.script import FRAME_MS, Script, read
from tests.lab.services import BIN, endpoint, start
from tests.lab.signals import chirps, encode
from tests.lab.topology import HTTP_PORT, IPV4, IPV6, SIGNALLING_TRANSCEIVER, join_for_signalling

TRANSCEIVERS = 4
PROCESSES = 3  # of aiortc's clients
SECONDS = 10.0  # of sound, again and again
BIT_RATE = 20_000
FIRST_MEDIA_PORT = 40000
SETUP_SECONDS = 400.0
SECOND = 17  # packets
_ATTACHED = re.compile(r"event=relay_attached .*?\brelay=(\S+)")


def libnice_among(calls: int) -> int:
    """How many of them are libnice's."""
    return min(30, max(2, calls // 10))


@dataclass
class Process:
    """Clients of one kind in one process."""

    running: subprocess.Popen[bytes]
    log: Path
    told: Path
    calls: int

    def scripts(self, since: float = 0.0) -> list[Script]:
        """Its calls, as they were at that time or later; none if it has not said so yet."""
        assert self.running.poll() is None, self._last_words()
        at, scripts = read(self.told)
        return scripts if at > since else []

    def _last_words(self) -> str:
        """Why it has ended, as far as it says so: the trace, and not what its calls say after it."""
        before, trace, after = self.log.read_text().partition("Traceback")
        return f"{before[-1000:]}{trace}{after[:3000]}"


@dataclass
class Voices:
    """The calls that there are, and who has them. Use `voices`."""

    group: Group
    transceivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    def busiest(self) -> Member:
        """The relay that most transceivers are attached to."""
        relays = [self._attached_to(number) for number in range(TRANSCEIVERS)]
        return max(self.group.members, key=lambda member: relays.count(member.name))

    @contextmanager
    def heard(self) -> Iterator[Hearing]:
        """What arrives meanwhile."""
        group = self.group
        ends = (group.site.client, "router"), (group.site.transceiver, "fabric")
        with hearing(group.lab, *ends) as made:
            yield made

    def scripts(self) -> list[Script]:
        """All calls, as they are now."""
        now = time.time()
        made = []
        for process in self.processes:
            wait_for(lambda process=process: bool(process.scripts(now)), "how calls fare", 60)  # type: ignore[misc]
            made += process.scripts()
        return made

    def clients_of_aiortc(self) -> set[Client]:
        """Where its calls are made from; all others are libnice's."""
        return {(script.address, script.port) for script in self.scripts() if script.port}

    def assert_well(self) -> None:
        """Every call is connected, and says something that comes back just as it was; others could come."""
        before = {script.call: script.returned for script in self.scripts()}
        deadline = time.monotonic() + 60
        while silent := [one for one in self.scripts() if one.returned < before[one.call] + SECOND]:
            assert time.monotonic() < deadline, f"do not talk: {silent}"
        wait_for(lambda: all(map(self._is_ready, range(TRANSCEIVERS))), "transceivers take calls", 60)
        scripts = self.scripts()
        assert len(scripts) == sum(process.calls for process in self.processes)
        assert [one for one in scripts if one.state != "connected" or one.strange] == []

    def _is_ready(self, number: int) -> bool:
        """Whether that transceiver has a relay, and takes calls."""
        url = f"http://{endpoint(SIGNALLING_TRANSCEIVER, HTTP_PORT + number)}/readyz"
        try:
            with self.group.site.client.inside(), urlopen(url, timeout=10) as answer:
                return bool(answer.status == 200)
        except HTTPError as refused:
            refused.close()
            return False

    def _attached_to(self, number: int) -> str:
        """Where that transceiver attached last."""
        said = self.group.lab.log(_log_name(number)).read_text()
        return _ATTACHED.findall(said)[-1]

    def _start_transceivers(self) -> None:
        group = self.group
        join_for_signalling(group.lab, group.site.client, group.site.transceiver)
        for number in range(TRANSCEIVERS):
            media = [f"{TRANSCEIVER4}{number}", f"{TRANSCEIVER6}{number}"]
            group.site.transceiver.ip(
                f"address add {media[0]}/24 dev fabric", f"address add {media[1]}/64 dev fabric nodad"
            )
            self.transceivers.append(
                start(
                    group.lab,
                    group.site.transceiver,
                    str(BIN / "earshot-transceiver"),
                    f"--name=voice-{number}",
                    *(f"--relay=unix:{member.socket}" for member in group.members),
                    f"--http={endpoint(SIGNALLING_TRANSCEIVER, HTTP_PORT + number)}",
                    *(f"--media-address={address}" for address in media),
                    f"--media-port={FIRST_MEDIA_PORT + number}",
                    *("--max-load=1", "--max-setups=100"),
                    name=_log_name(number),
                )
            )

    def _start_clients(self, calls: int) -> None:
        packets = self.group.lab.dir / "packets.json"
        sound = encode(chirps(1, SECONDS), FRAME_MS, "voip", BIT_RATE)
        one_frame = [packet for packet in sound if packet[0] & 3 == 0]
        packets.write_text(json.dumps([base64.b64encode(packet).decode() for packet in one_frame]))
        whips = [
            f"http://{endpoint(SIGNALLING_TRANSCEIVER, HTTP_PORT + number)}/whip"
            for number in range(TRANSCEIVERS)
        ]
        libnice = libnice_among(calls)
        shares = [(calls - libnice + number) // PROCESSES for number in range(PROCESSES)]
        first = 0
        for share in shares:
            argv = [
                *(sys.executable, "-P", "-m", "tests.lab.talkers"),
                *(f"--whip={whip}" for whip in whips),
                *(f"--address={address}" for address in (IPV4.client, IPV6.client)),
                *(f"--calls={share}", f"--first={first}", f"--packets={packets}"),
            ]
            self._start_process(f"aiortc-{first}", share, argv, "--told=")
            first += share
        argv = ["/usr/bin/python3", "-m", "tests.clients.gstreamer_talkers", ",".join(whips)]
        self._start_process("libnice", libnice, [*argv, str(libnice), str(first), str(packets)])

    def _start_process(self, name: str, calls: int, argv: Sequence[str], told_flag: str = "") -> None:
        lab = self.group.lab
        told = lab.dir / f"{name}.json"
        running = lab.popen(self.group.site.client, *argv, f"{told_flag}{told}", log=name)
        self.processes.append(Process(running, lab.log(name), told, calls))


def pause(seconds: float = 2.0) -> None:
    """Calls go on."""
    time.sleep(seconds)


def _log_name(number: int) -> str:
    return f"earshot-transceiver-{number}"


@contextmanager
def voices(group: Group, calls: int) -> Iterator[Voices]:
    """So many calls by a group that serves, all of which talk."""
    made = Voices(group)
    made._start_transceivers()
    made._start_clients(calls)
    try:
        for process in made.processes:
            wait_for(
                lambda process=process: len(process.scripts()) == process.calls,  # type: ignore[misc]
                f"{process.calls} calls",
                SETUP_SECONDS,
            )
        yield made
    finally:
        for process in made.processes:
            process.running.terminate()
        for process in made.processes:
            process.running.wait(60)
