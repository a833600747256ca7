# SPDX-License-Identifier: Apache-2.0
"""Promises of the group's relays not to take each other's addresses: leases for while the directory is away.

Without I/O and without a clock of its own: times are nanoseconds of CLOCK_MONOTONIC, each relay's own. Who
asks counts a promise from before it asked, less a tenth of a second for clocks that do not go alike; who
gives it, from when it heard. So it is over for the one before it is for the other, however long anything was
under way.

A promise counts only where *all* relays of the group have given one: each relay address of others has to be
one that some answer speaks for. One that is dead promises nothing, and then nobody is safe from it. One that
was started just now does not know what it has promised before, nor what addresses it has taken.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterator

from control.addresses import IPAddress
from control.directory.errors import Refusal, SealError
from control.directory.seal import Opened
from control.logs import event
from control.replication.announce import LIFE_SECONDS
from control.replication.question import Answer, Question, decode

PROMISE_MS = 700  # as long as a lease
SLACK_NS = 100_000_000  # less: the kernel's clock may be a jiffy behind, and another's faster than ours
ROUNDS = 16  # whose answers still count
PRESENT_NS = 5_000_000_000  # after which a relay that does not answer, or ask, is not there
STRANGER_NS = 10_000_000_000  # for which a relay that we do not know is feared
_DAEMONS = 1024  # whose last question is remembered, the oldest given up first

_log = logging.getLogger(__name__)

# What becomes of questions, of ours and of others'.
OUTCOMES = ("given", "refused", "received")


class Promises:
    """Those of one relay's daemon.

    Attributes:
        counts: in the words of OUTCOMES.
    """

    def __init__(
        self,
        instance: bytes,
        now: int,
        own: Callable[[], Collection[IPAddress]],
        foreign: Callable[[], Collection[IPAddress]],
        holds: Callable[[IPAddress], bool],
    ) -> None:
        """`holds`: whether this relay answers for an address of `foreign`, or is about to."""
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self._instance = instance.hex()
        self._own, self._foreign, self._holds = own, foreign, holds
        self._barred: dict[IPAddress, int] = {}
        self._all_barred = 0
        self._asked_for: tuple[IPAddress, ...] = ()
        self._sent: dict[str, int] = {}  # by nonces of the last rounds
        self._promised: dict[IPAddress, int] = {}  # until when, by addresses of those who promise
        self._present: dict[IPAddress, int] = {}  # when its relay answered last
        self._instances: dict[IPAddress, str] = {}  # who has answered there
        self._heard: dict[tuple[bytes, IPAddress], int] = {}  # counters of others' questions
        self._asked_at: dict[IPAddress, int] = {}  # when its relay asked last
        self._stranger_at: int | None = None
        # What a former daemon of this relay has promised is over then; and what it has taken, off the link.
        self.bar_all(now)
        self._silent_until = now + LIFE_SECONDS * 1_000_000_000

    # ---- what we promise ------------------------------------------------------------------

    def bar_all(self, now: int) -> None:
        """Whatever the directory may have granted before, or we have promised, is over when this is."""
        self._all_barred = now + PROMISE_MS * 1_000_000

    def is_barred(self, address: IPAddress, now: int) -> bool:
        """Whether an address must not be taken, whatever the directory says."""
        return now < max(self._all_barred, self._barred.get(address, 0))

    def _answer(self, question: Question, now: int) -> Answer:
        """What we say to a question; a promise binds us from now on."""
        foreign = set(self._foreign())
        promised = 0
        self._asked_at.update(dict.fromkeys(foreign.intersection(question.addresses), now))
        if foreign.isdisjoint(question.addresses):
            # It may take our addresses, and we would not ask it: its list of the group is not ours.
            if self._stranger_at is None or now - self._stranger_at > STRANGER_NS:
                event(
                    _log,
                    logging.ERROR,
                    "group_relay_unknown",
                    addresses=",".join(map(str, question.addresses)),
                    message="a relay takes us for one of its group, and is not in group_relay_addresses",
                )
            self._stranger_at = now
        elif question.milliseconds and question.instance == self._instance:
            if now >= self._silent_until and not any(map(self._holds, question.addresses)):
                promised = min(question.milliseconds, PROMISE_MS)
            self.counts["given" if promised else "refused"] += 1
        for address in foreign.intersection(question.addresses) if promised else ():
            self._barred[address] = max(self._barred.get(address, 0), now + promised * 1_000_000)
        return Answer(question.nonce, tuple(self._own()), promised)

    # ---- what we are promised -------------------------------------------------------------

    def questions(self, milliseconds: int, now: int) -> Iterator[tuple[IPAddress, bytes]]:
        """What is to be sent now, and to which address of another relay each."""
        own = tuple(self._own())
        if own != self._asked_for:
            # What was promised is for other addresses.
            self._sent.clear()
            self._promised.clear()
            self._asked_for = own
        nonce = secrets.token_hex(8)
        self._sent[nonce] = now
        while len(self._sent) > ROUNDS:
            del self._sent[next(iter(self._sent))]
        for address in self._foreign():
            instance = self._instances.get(address, "")
            yield address, Question(nonce, address, instance, own, milliseconds).encode()

    def until(self, now: int) -> int:
        """Until when all others have promised; 0: not all have."""
        foreign = self._foreign()
        if not foreign or (self._stranger_at is not None and now - self._stranger_at <= STRANGER_NS):
            return 0
        return min(self._promised.get(address, 0) for address in foreign)

    def absent(self, now: int) -> int:
        """How many relay addresses of others have no relay that answers."""
        return sum(now - self._present.get(one, now - PRESENT_NS) >= PRESENT_NS for one in self._foreign())

    def asks(self, address: IPAddress, since: int, now: int) -> bool:
        """Whether an address's own relay is there, and can serve, and has said so after a time."""
        return max(since, now - PRESENT_NS) < self._asked_at.get(address, 0)

    # ---- hearing --------------------------------------------------------------------------

    def hear(self, opened: Opened, now: int) -> bytes | None:
        """What another daemon of the fleet has said; returns what is to be sent back, if anything.

        Raises:
            SealError: it does not parse, or was said before.
        """
        said = decode(opened.payload)
        if isinstance(said, Answer):
            self._take(said, opened.instance.hex(), now)
            return None
        if said.to not in self._own():
            return None  # for a relay whose address we have taken
        # Under way by two addresses, one may overtake the other.
        key = opened.instance, said.to
        last = self._heard.pop(key, 0)
        self._heard[key] = max(last, opened.counter)
        if len(self._heard) > _DAEMONS:
            del self._heard[next(iter(self._heard))]
        if opened.counter <= last:
            raise SealError(Refusal.REPLAYED, f"was said by {opened.instance.hex()} before")
        return self._answer(said, now).encode()

    def _take(self, answer: Answer, instance: str, now: int) -> None:
        sent = self._sent.get(answer.nonce)
        if sent is None:
            return  # too late, or of what does not count any more
        for address in set(self._foreign()).intersection(answer.addresses):
            self._present[address] = now
            self._instances[address] = instance
            if answer.milliseconds:
                until = sent + min(answer.milliseconds, PROMISE_MS) * 1_000_000 - SLACK_NS
                self._promised[address] = max(self._promised.get(address, 0), until)
        self.counts["received"] += bool(answer.milliseconds)
