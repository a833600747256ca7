# SPDX-License-Identifier: Apache-2.0
"""The relays that are heard by the directory, and the clock by which one is silent.

Time counts while this relay hears itself: while Redis is away or slow, nobody can be heard, and nobody is
silent. So nothing depends on what any other clock says, nor on Redis.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from earshot.directory.v1 import directory_pb2 as pb

BEAT_SECONDS = 1.0
# A relay that was not heard for so long does not speak for its transceivers any more.
SILENCE_SECONDS = 10.0
# Between two own beats that were heard, more than this does not count.
_MOST_SECONDS = 3 * BEAT_SECONDS
# What is known of relays and daemons that are no more is given up.
_FORGET_SECONDS = 3600.0


@dataclass(slots=True)
class Member:
    """A relay's daemon that was heard.

    Attributes:
        heard: when, by the directory's clock.
        said: its last beat.
    """

    instance: bytes
    heard: float
    said: pb.Beat


class Members:
    """Who is there.

    Attributes:
        now: the directory's clock, in seconds.
        lag: how long the last beat of our own took until it was heard here; None: none was heard yet.
        by_instance: the others, by their daemons' random numbers.
    """

    def __init__(self, instance: bytes) -> None:
        self.instance = instance
        self.now = 0.0
        self.lag: float | None = None
        self.by_instance: dict[bytes, Member] = {}
        self._sent: dict[int, float] = {}
        self._began = time.monotonic()
        self._heard_at: float | None = None

    def sent(self, counter: int, now: float) -> None:
        """A beat of our own goes out, at this time of CLOCK_MONOTONIC."""
        self._sent = {number: at for number, at in self._sent.items() if now - at < 60}
        self._sent[counter] = now

    def heard_self(self, counter: int, now: float) -> None:
        """A beat of our own has come back."""
        sent = self._sent.pop(counter, None)
        if sent is not None:
            self.lag = now - sent
        if self._heard_at is not None:
            self.now += min(now - self._heard_at, _MOST_SECONDS)
        self._heard_at = now

    def delay(self, now: float) -> float:
        """How late others hear what is said here, in seconds; grows while our own beats do not come back."""
        if self._heard_at is None or self.lag is None:
            return now - self._began
        return max(self.lag, now - self._heard_at - 2 * BEAT_SECONDS)

    def is_deaf(self, now: float) -> bool:
        """Whether not even our own beats come back."""
        return self._heard_at is None or now - self._heard_at > _MOST_SECONDS

    def heard(self, instance: bytes, beat: pb.Beat) -> None:
        """A beat of another relay's."""
        self.by_instance[instance] = Member(instance, self.now, beat)

    def is_silent(self, instance: bytes) -> bool:
        """Whether a daemon has not been heard for so long that it does not count."""
        member = self.by_instance.get(instance)
        return member is None or self.now - member.heard > SILENCE_SECONDS

    def forget(self) -> None:
        """Gives up who has been silent for an hour."""
        for instance, member in list(self.by_instance.items()):
            if self.now - member.heard > _FORGET_SECONDS:
                del self.by_instance[instance]

    def living(self) -> list[Member]:
        """Those that are not silent."""
        return [member for member in list(self.by_instance.values()) if not self.is_silent(member.instance)]
