# SPDX-License-Identifier: Apache-2.0
"""Many calls of aiortc that talk until they are told to end: `script` says what, and what came back.

    python -m tests.lab.talkers --whip URL --whip URL --address 198.51.100.10 --calls 90 --first 0 \\
        --packets FILE --told FILE

ICE, DTLS and SRTP are aiortc's, with the checks by which a client finds out that nobody is there any more.
Once a second FILE says how all calls fare. SIGTERM hangs up.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.lab.line import Line, connect
from tests.lab.script import FRAME, FRAME_SAMPLES, Script, write

SLOTS = 20  # calls are spread over the time of a packet
HTTP_TIMEOUT = 60.0
CLOSE_TIMEOUT = 20.0


@dataclass
class Talker:
    """One call."""

    script: Script
    line: Line

    def send(self) -> None:
        """The next packet, unless the call is over."""
        if self.line.state == "connected":
            number = self.script.sent
            self.line.send(number, FRAME_SAMPLES, self.script.next())

    async def close(self, http: aiohttp.ClientSession) -> None:
        async with http.delete(self.line.resource):
            pass
        await self.line.close()


class Talkers:
    """All calls of this process."""

    def __init__(self, http: aiohttp.ClientSession, packets: Sequence[bytes]) -> None:
        self._http = http
        self._packets = packets
        self._talkers: list[Talker] = []

    async def add(self, call: int, whip: str, address: str) -> None:
        """Sets a call up, and lets it talk."""
        line = await connect(self._http, whip, address)
        script = Script(call, address=line.local[0], port=line.local[1], packets=self._packets)
        line.heard = script.heard
        self._talkers.append(Talker(script, line))

    async def talk(self) -> None:
        """Sends for all; runs until cancelled."""
        clock = asyncio.get_running_loop().time
        started, tick = clock(), 0
        while True:
            tick += 1
            await asyncio.sleep(started + tick * FRAME / SLOTS - clock())
            for talker in self._talkers[tick % SLOTS :: SLOTS]:
                talker.send()

    async def tell(self, path: Path) -> None:
        """Keeps the file; runs until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            for talker in self._talkers:
                talker.script.state = talker.line.state
            write(path, [talker.script for talker in self._talkers])

    async def close(self) -> None:
        """Hangs up."""
        closing = [asyncio.create_task(talker.close(self._http)) for talker in self._talkers]
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_TIMEOUT)


async def run(flags: argparse.Namespace) -> None:
    packets = [base64.b64decode(text) for text in json.loads(flags.packets.read_text())]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        talkers = Talkers(http, packets)
        tasks = [asyncio.create_task(talkers.talk()), asyncio.create_task(talkers.tell(flags.told))]
        for call in range(flags.first, flags.first + flags.calls):
            await talkers.add(
                call,
                flags.whip[call % len(flags.whip)],
                flags.address[call // len(flags.whip) % len(flags.address)],
            )
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # raises what ended it
            task.cancel()
        await talkers.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.talkers", description=__doc__.split("\n")[0])
    parser.add_argument("--whip", action="append", required=True, metavar="URL", help="calls take turns")
    parser.add_argument("--address", action="append", required=True, help="where calls come from; likewise")
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="the first call's number")
    parser.add_argument("--packets", type=Path, required=True, help="Opus of one frame each; JSON, base64")
    parser.add_argument("--told", type=Path, required=True, metavar="FILE", help="how calls fare")
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
