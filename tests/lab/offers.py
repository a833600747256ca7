# SPDX-License-Identifier: Apache-2.0
"""A client that posts one and the same offer very often, at a steady rate.

    python -m tests.lab.offers --whip http://192.0.2.1:8080/whip --rate 1000 --seconds 3 < OFFER

prints ``{"statuses": {"503": 2990}, "without_retry_after": 0, "seconds": 3.0, "rate": 1000.0}``. Each post
has a time before which it does not go out; if the other side is slower than that, it takes longer, and `rate`
says what came of it. It speaks HTTP/1.1 by itself: a library's client would be the slower side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

CONNECTIONS = 16
DEADLINE = 20.0  # seconds, beyond those that were asked for
_LENGTH = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
_RETRY_AFTER = re.compile(rb"^retry-after: *[1-9]\d*\r$", re.IGNORECASE | re.MULTILINE)


@dataclass
class Outcome:
    """What was answered, and how fast."""

    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0  # answers 503 that do not say when to come again
    seconds: float = 0.0
    rate: float = 0.0  # posts answered a second


async def post_offers(url: str, offer: bytes, rate: float, seconds: float) -> Outcome:
    """Posts `rate` offers a second for so long.

    Raises:
        TimeoutError: the answers did not all come.
        OSError: a connection failed.
        asyncio.IncompleteReadError: it was closed.
    """
    where = urlsplit(url)
    outcome = Outcome()
    started = time.monotonic()
    due = iter([started + number / rate for number in range(round(rate * seconds))])
    async with asyncio.timeout(seconds + DEADLINE), asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_connection(where, offer, due, outcome))
    outcome.seconds = round(time.monotonic() - started, 3)
    outcome.rate = round(sum(outcome.statuses.values()) / outcome.seconds, 1)
    return outcome


async def _connection(where: SplitResult, offer: bytes, due: Iterator[float], outcome: Outcome) -> None:
    """One post after the other, each when it is due, until none is left."""
    head = f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/sdp\r\n"
    request = f"{head}Content-Length: {len(offer)}\r\n\r\n".encode() + offer
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        for moment in due:
            await asyncio.sleep(moment - time.monotonic())
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(answer)
            await reader.readexactly(int(length[1]) if length else 0)
            status = int(answer.split(b" ", 2)[1])
            outcome.statuses[status] += 1
            outcome.without_retry_after += status == 503 and not _RETRY_AFTER.search(answer)
    finally:
        writer.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.offers", description=__doc__.split("\n")[0])
    parser.add_argument("--whip", required=True, metavar="URL")
    parser.add_argument("--rate", type=float, default=1000.0, metavar="N", help="posts a second")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S")
    options = parser.parse_args()
    offer = sys.stdin.buffer.read()
    print(json.dumps(vars(asyncio.run(post_offers(options.whip, offer, options.rate, options.seconds)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
