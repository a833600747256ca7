# SPDX-License-Identifier: Apache-2.0
"""Many calls of GStreamer's webrtcbin that talk until they are told to end: `tests.lab.talkers` with libnice.

    /usr/bin/python3 -m tests.clients.gstreamer_talkers WHIP-URLS CALLS FIRST PACKETS-FILE TOLD-FILE

`WHIP-URLS`: calls take turns, commas between. SIGTERM hangs up.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urljoin

from tests.clients.gstreamer import SETUP_TIMEOUT, Client, Gst, request
from tests.lab.script import FRAME, Script, write


class Talker(Client):
    """One call."""

    def __init__(self, script: Script) -> None:
        super().__init__(set())
        self.script = script
        self._resource = ""

    def call(self, whip: str) -> None:
        _, location, answer = request("POST", whip, self.offer())
        self._resource = urljoin(whip, location)
        self.accept(answer)
        if not self.opened.wait(SETUP_TIMEOUT):
            raise TimeoutError(f"{self._resource} is not connected")

    def send(self) -> None:
        number = self.script.sent
        self.play(self.script.next(), number, FRAME)

    def heard(self, packet: bytes) -> None:
        self.script.heard(packet)

    def hang_up(self) -> None:
        try:
            request("DELETE", self._resource)
        finally:
            self.close()


def talk(talkers: list[Talker], ended: threading.Event) -> None:
    """All of them, one after another in the time of a packet, until the end."""
    started, tick = time.monotonic(), 0
    while not ended.wait(max(0.0, started + tick * FRAME - time.monotonic())):
        tick += 1
        for talker in list(talkers):
            talker.send()


def main(whips: str, calls: str, first: str, packets_file: str, told: str) -> None:
    Gst.init(None)
    packets = [base64.b64decode(text) for text in json.loads(Path(packets_file).read_text())]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    talkers: list[Talker] = []
    talking = threading.Thread(target=talk, args=(talkers, ended))
    talking.start()
    urls = whips.split(",")
    try:
        for number in range(int(first), int(first) + int(calls)):
            talker = Talker(Script(number, packets=packets))
            talker.call(urls[number % len(urls)])
            talkers.append(talker)
            _tell(Path(told), talkers)
        while not ended.wait(1.0):
            _tell(Path(told), talkers)
    finally:
        ended.set()
        talking.join()
        for talker in talkers:
            talker.hang_up()


def _tell(path: Path, talkers: list[Talker]) -> None:
    for talker in talkers:
        state = talker.state()
        talker.script.state = "connected" if state == "completed" else state
    write(path, [talker.script for talker in talkers])


if __name__ == "__main__":
    main(*sys.argv[1:])
