# SPDX-License-Identifier: Apache-2.0
"""The picture of `earshot top` in docs/cli.md: calls through the XDP program, on a terminal of 80 columns.

    python -m tests.lab.top_picture docs/images/top.svg [COLUMNS LINES]

Needs root. One client's packets get lost on their way to the relay, another one hears nothing, a third sends
unevenly; and somebody asks for a session that there is not.
"""

from __future__ import annotations

import io
import random
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from aioice import stun
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.lab.calls import Call, binding_request, binding_response, call, new_ufrag
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, start_relay
from tests.lab.terminal import Terminal
from tests.lab.topology import Site, two_armed

PERIOD = 0.02  # seconds between packets of a voice
CHECK = 2.5  # between consent checks
LOOKS = 8  # of two seconds each, until rates and jitter are what they are
TRANSCEIVERS = ("voice-1", "voice-2")


class Person(NamedTuple):
    """Who calls.

    Attributes:
        family: of addresses.
        distance: ms to it and back.
        loses: every how many of its packets is lost before the relay; 0: none is.
        hears: whether its transceiver sends anything.
        late: ms by which its packets come late at most.
    """

    family: int
    distance: int
    loses: int = 0
    hears: bool = True
    late: int = 0


PEOPLE = (
    Person(4, 18),
    Person(6, 31, late=4),
    Person(4, 44, loses=9),
    Person(4, 23, hears=False),
    Person(6, 95, late=60),
    Person(4, 12, late=2),
)


class Talk:
    """A call in which both speak, and check that the other is there."""

    def __init__(self, made: Call, person: Person) -> None:
        self.call, self._person = made, person
        self._ssrcs = random.randrange(1, 1 << 32), random.randrange(1, 1 << 32)
        self._sent = self._heard = 0
        self._begun = self._check = time.monotonic()
        self._late = 0.0
        self._answers: list[tuple[float, bytes]] = []  # of the client, on their way
        for end in (made.client, made.transceiver):
            end.setblocking(False)

    def go_on(self) -> None:
        """Sends what is due, and answers what has come."""
        now, person = time.monotonic(), self._person
        while now >= self._begun + self._sent * PERIOD + self._late:
            if not person.loses or self._sent % person.loses:
                self.call.client.sendto(self._packet(0, self._sent), self.call.vip)
            self._sent += 1
            self._late = random.random() * person.late / 1000
        while person.hears and now >= self._begun + self._heard * PERIOD:
            self.call.transceiver.sendto(self._packet(1, self._heard), self.call.peer)
            self._heard += 1
        if now >= self._check:
            self._check = now + CHECK
            self.call.client.sendto(binding_request(self.call.ufrag), self.call.vip)
            self.call.transceiver.sendto(binding_request("client"), self.call.peer)
        for request, source in _requests(self.call.transceiver):
            self.call.transceiver.sendto(binding_response(request, source), source)
        for request, source in _requests(self.call.client):
            self._answers.append((now + person.distance / 1000, binding_response(request, source)))
        while self._answers and now >= self._answers[0][0]:
            self.call.client.sendto(self._answers.pop(0)[1], self.call.vip)

    def _packet(self, way: int, number: int) -> bytes:
        head = struct.pack("!BBHII", 0x80, 111, number & 0xFFFF, number * 960 & 0xFFFFFFFF, self._ssrcs[way])
        return head + bytes(60 + 30 * way)


def _requests(end: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """Binding Requests that wait; all else is taken, and nobody's business."""
    while True:
        try:
            data, source = end.recvfrom(2048)
        except BlockingIOError:
            return
        if data[0] < 4 and stun.parse_message(data).message_class is stun.Class.REQUEST:
            yield data, source[:2]


def photograph(site: Site, columns: int, lines: int) -> Terminal:
    """A terminal that shows these calls."""
    with ExitStack() as stack:
        relay = stack.enter_context(RelayClient(relay_target(site)))
        attached = [stack.enter_context(relay.attach(name)) for name in TRANSCEIVERS]
        talks = []
        for number, person in enumerate(PEOPLE):
            made = stack.enter_context(call(site, attached[number % len(attached)], person.family))
            made.bind(requests=5)
            talks.append(Talk(made, person))
        stranger = stack.enter_context(site.client.socket(socket.AF_INET, timeout=1))
        ended = threading.Event()

        def talk() -> None:
            while not ended.wait(0.001):
                for one in talks:
                    one.go_on()
                if random.random() < 0.01:
                    stranger.sendto(binding_request(new_ufrag()), talks[0].call.vip)

        talking = threading.Thread(target=talk)
        talking.start()
        stack.callback(talking.join)
        stack.callback(ended.set)
        until = time.monotonic() + 2 * LOOKS
        with Terminal(site, columns, lines, "--sort", "client") as terminal:
            terminal.until(
                lambda shown: time.monotonic() > until and f"calls {len(PEOPLE)}" in shown[0],
                "all calls",
                lambda: None,
            )
            return terminal


def as_svg(terminal: Terminal, title: str) -> str:
    """What is on a screen."""
    screen = terminal.screen
    console = Console(width=screen.columns, record=True, file=io.StringIO(), color_system="truecolor")
    for row in range(screen.lines):
        line = Text()
        chars = [screen.buffer[row][column] for column in range(screen.columns)]
        for (bold, reverse, color), run in groupby(chars, lambda char: (char.bold, char.reverse, char.fg)):
            style = Style(bold=bold, reverse=reverse, color=None if color == "default" else color)
            line.append("".join(char.data for char in run), style)
        console.print(line, no_wrap=True, overflow="crop")
    svg = console.export_svg(title=title, unique_id="earshot-top")
    # Whoever looks at it loads nothing from elsewhere: any font of the reader's will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", "ui-monospace").rstrip() + "\n"


def main() -> int:
    target = Path(sys.argv[1])
    columns, lines = (int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 3 else (80, 14)
    with Lab() as lab:
        site = two_armed(lab)
        start_relay(site)
        target.write_text(as_svg(photograph(site, columns, lines), "earshot top"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
