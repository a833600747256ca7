# SPDX-License-Identifier: Apache-2.0
"""Flows of the group's other relays, here: what they have told, brought about in the flow table.

Without I/O and without a clock of its own. What was told of a relay address and port last is what is wanted
there: a record is ended where another flow is wanted, and entered when it has rested. A flow whose session
nobody has told this relay of yet is held back for a while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, KeysView
from typing import NamedTuple

import numpy as np

from control import abi
from control.abi import FlowState, Reason
from control.addresses import Endpoint, IPAddress
from control.datapath import Datapath
from control.flows import Clock, Numbers
from control.foreign import THERE, FlowEntering
from control.model import Session, SessionName
from control.places import is_derived
from control.replication.message import Kind, Message
from control.sessions import Registry
from control.sweep import STATE_MASK

HOLD_SECONDS = 30.0  # a flow whose session stays unknown, or that cannot be entered, is given up
WORK_MOST = 512  # flows that are looked at in one go

# What becomes of what is told: strange is what cannot be so.
OUTCOMES = ("entered", "ended", "overtaken", "given_up", "strange")

End = Callable[[Numbers], None]


class Wanted(NamedTuple):
    """A flow that is to be entered."""

    word: int  # the teller's second of binding: which flow of that port it is
    key: bytes  # client address, client port, VIP number: as a record begins
    session: int | SessionName  # the number that follows from its ufrag, or its name
    backend: Endpoint
    second: int  # of binding, by this host's clock
    since: float  # when it was told of


class Incoming:
    """Of one datapath.

    Attributes:
        counts: flows by what became of them, in the words of OUTCOMES.
        waiting: how many are to be entered yet.
    """

    def __init__(self, datapath: Datapath, registry: Registry, entering: FlowEntering, end: End) -> None:
        """`end` ends flows: they are DEAD when it returns, and FREE in due time."""
        self.counts = Counter[str]()
        self._datapath = datapath
        self._registry = registry
        self._entering = entering
        self._end = end
        self._wanted: dict[int, Wanted] = {}
        self._words = np.zeros(len(datapath.flows), np.uint32)  # the teller's, of what is entered; 0: unknown
        self._seconds = np.zeros(len(datapath.flows), np.uint32)  # the last one used of each record
        self._listed: dict[IPAddress, set[int]] = {}  # by address: what a list has named so far
        self._recalled: set[int] = set()  # records of ours that are to be as they were

    @property
    def waiting(self) -> int:
        return len(self._wanted)

    @property
    def wanted(self) -> KeysView[int]:
        """The numbers of the records where they are to be."""
        return self._wanted.keys()

    def waits_for(self, addresses: Iterable[IPAddress]) -> bool:
        """Whether some flow of these addresses is to be entered yet."""
        span = self._datapath.layout.span
        relays = {self._foreign().get(address) for address in addresses}
        return any(number // span in relays for number in self._wanted)

    @property
    def is_recalling(self) -> bool:
        """Whether flows of our own addresses, which we had lost, are still to be entered."""
        return bool(self._recalled)

    def grow(self) -> None:
        """The table may be larger than it was."""
        more = len(self._datapath.flows) - len(self._words)
        self._words = np.concatenate((self._words, np.zeros(more, np.uint32)))
        self._seconds = np.concatenate((self._seconds, np.zeros(more, np.uint32)))

    # ---- what is told ----------------------------------------------------------------------

    def take(self, message: Message, now: Clock) -> None:
        """Changes, or a part of a list, of another relay's flows; or flows of ours that others know."""
        numbers = self._relay_numbers(message)
        recalled: list[int] = []
        if message.kind is Kind.LIST and message.is_first:
            self._listed.update({message.addresses[place]: set() for place in numbers})
        vips = {index: self._vip(vip) for index, vip in enumerate(message.vips)}
        layout = self._datapath.layout
        ended: list[int] = []
        columns = (message.rows[name].tolist() for name in message.rows.dtype.names or ())
        for address, port, relay_port, session, word, age, backend, relay, vip, is_live in zip(
            *columns, strict=True
        ):
            relay_number = numbers.get(relay)
            if relay_number is None or not layout.port_min <= relay_port <= layout.port_max:
                self.counts["strange"] += 1
                continue
            number = layout.number(relay_number, relay_port)
            if not is_live:
                if self._ended(number, word):
                    ended.append(number)
                continue
            vip_number = vips[vip]
            if vip_number is None:
                self.counts["strange"] += 1
                continue
            if (
                message.kind is Kind.LIST
                and (listed := self._listed.get(message.addresses[relay])) is not None
            ):
                listed.add(number)
            key = bytes(address) + port.to_bytes(2, "big") + np.uint16(vip_number).tobytes()
            named = session if is_derived(session) else message.sessions[session]
            second = max(1, int(now.seconds - age / 1000), int(self._seconds[number]) + 1)
            told = Wanted(word, key, named, message.backends[backend], second, now.seconds)
            if not self._is_there(number, told):
                self._wanted[number] = told
                if message.kind is Kind.KNOWN:
                    recalled.append(number)
        self._reserve(recalled)
        if ended:
            self._end_these(ended)
        if message.kind is Kind.LIST and message.is_last:
            self._end_unlisted(message.addresses)

    def forget_list(self, addresses: Iterable[IPAddress]) -> None:
        """A part of it has been missed: what it does not name may be there all the same."""
        for address in addresses:
            self._listed.pop(address, None)

    def _ended(self, number: int, word: int) -> bool:
        """Whether a record has to be ended since the flow that it holds has."""
        told = self._wanted.get(number)
        if told is not None and told.word == word:
            del self._wanted[number]
        return self._words[number] in (0, word) and self._kind(number) == FlowState.LIVE

    def _is_there(self, number: int, told: Wanted) -> bool:
        """Whether a record is this flow already; also one that a former daemon has entered, or that its own
        relay has entered anew, so that its word is another."""
        flow = self._datapath.flows[number]
        if self._kind(number) != FlowState.LIVE or flow.tobytes()[: len(told.key)] != told.key:
            return False
        if self._words[number] not in (0, told.word) and int(flow["session"]) != self._session(told)[0]:
            return False
        self._words[number] = told.word
        self._done(number)
        return True

    def _reserve(self, numbers: list[int]) -> None:
        """Keeps records of ours for what is to be entered there."""
        fresh = np.array([number for number in numbers if number not in self._recalled], np.uint32)
        if len(fresh):
            self._recalled.update(fresh.tolist())
            self._datapath.reserve(fresh)

    def _done(self, number: int) -> None:
        """Nothing is wanted of a record any more."""
        self._wanted.pop(number, None)
        if number in self._recalled:
            self._recalled.discard(number)
            self._datapath.release(np.array([number], np.uint32))

    def _end_unlisted(self, addresses: Iterable[IPAddress]) -> None:
        """What a whole list has not named is no more."""
        span = self._datapath.layout.span
        for address in addresses:
            listed = self._listed.pop(address, None)
            relay = self._foreign().get(address)
            if listed is None or relay is None:
                continue
            live = self._datapath.flows_at(relay)
            gone = [number for number in live.tolist() if number not in listed]
            if gone:
                self._end_these(gone)
            first = relay * span
            for number in [one for one in self._wanted if first <= one < first + span and one not in listed]:
                del self._wanted[number]

    # ---- what is done ----------------------------------------------------------------------

    def work(self, now: Clock) -> bool:
        """Enters some of what waits; whether it should be called again at once."""
        if not self._wanted:
            return False
        looked = list(self._wanted.items())[:WORK_MOST]
        ready: list[tuple[int, Wanted]] = []
        rows = np.zeros(len(looked), abi.FOREIGN)
        in_the_way: list[int] = []
        for number, told in looked:
            kind = self._kind(number)
            if kind == FlowState.LIVE and not self._is_there(number, told):
                if number in self._recalled:
                    self._done(number)  # bound anew meanwhile: it is ours, and later
                    continue
                in_the_way.append(number)
            if kind == FlowState.FREE and self._fill(rows[len(ready)], number, told):
                ready.append((number, told))
            # Behind the others: what has to wait does not hold up what need not.
            self._put_off(number, told, now)
        if in_the_way:
            self._end_these(in_the_way)
        outcomes = self._entering.enter(rows[: len(ready)])
        entered = 0
        for (number, told), outcome in zip(ready, outcomes.tolist(), strict=True):
            if outcome in THERE:
                self._words[number], self._seconds[number] = told.word, told.second
                entered += 1
            elif outcome == Reason.DROP_STALE_FLOW:
                self.counts["overtaken"] += 1
            else:
                continue
            self._done(number)
        self.counts["entered"] += entered
        return entered > 0 and len(self._wanted) > 0

    def _put_off(self, number: int, told: Wanted, now: Clock) -> None:
        if self._wanted.pop(number, None) is None:
            return
        if told.since + HOLD_SECONDS > now.seconds:
            self._wanted[number] = told
        else:
            self._done(number)
            self.counts["given_up"] += 1

    def _session(self, told: Wanted) -> tuple[int, Session | None]:
        """The number here of a flow's session, or 0; and the session, if it is registered."""
        if isinstance(told.session, SessionName):
            session = self._registry.session_named(*told.session)
            return (session.number if session is not None else 0), session
        return told.session, self._registry.session(told.session)

    def _fill(self, row: np.void, number: int, told: Wanted) -> bool:
        """What the program is to enter; False: the session, or where it goes, is not known here yet."""
        known, session = self._session(told)
        backend = self._registry.backend_at(told.backend)
        if not known or backend is None or not self._registry.leads_on(known, backend):
            return False
        row["client_addr"] = np.void(told.key[:16])
        row["client_port"] = int.from_bytes(told.key[16:18], "big")
        row["vip"] = np.frombuffer(told.key[18:], np.uint16)[0]
        row["number"], row["session"], row["backend"], row["second"] = number, known, backend, told.second
        row["clock"] = session.rtp_clock_rate // abi.CLOCK_UNIT if session is not None else 0
        return True

    def _end_these(self, numbers: list[int]) -> None:
        self.counts["ended"] += len(numbers)
        self._words[numbers] = 0
        self._end(np.array(numbers, np.uint32))

    # ---- inside ----------------------------------------------------------------------------

    def _kind(self, number: int) -> int:
        return int(self._datapath.flows["state"][number] & STATE_MASK)

    def _foreign(self) -> dict[IPAddress, int]:
        """Numbers of the group's other relay addresses."""
        return {address: number for number, address in self._datapath.foreign_relays.items()}

    def _relay_numbers(self, message: Message) -> dict[int, int]:
        """Of a message's addresses, by their places in it: those that it may speak of."""
        datapath = self._datapath
        relays = datapath.own_relays if message.kind is Kind.KNOWN else datapath.foreign_relays
        spoken = {address: number for number, address in relays.items()}
        return {place: spoken[one] for place, one in enumerate(message.addresses) if one in spoken}

    def _vip(self, vip: Endpoint) -> int | None:
        vips = self._datapath.vips
        return vips.index(vip) if vip in vips else None
