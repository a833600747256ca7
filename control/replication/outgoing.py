# SPDX-License-Identifier: Apache-2.0
"""What has become of this relay's own flows since it was last told.

Without I/O and without a clock. A flow is told of when it is LIVE; one that waits for its transceiver's word,
or whose session is gone, is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from control import abi
from control.addresses import Endpoint, IPAddress
from control.datapath import Datapath
from control.flows import Clock, Numbers
from control.model import SessionName
from control.places import is_derived
from control.records import endpoint_of
from control.replication.message import ROW, ROWS_MAX, Kind, Message, Rows
from control.sessions import Registry
from control.sweep import STATE_MASK, parts

_AGE_MAX = (1 << 32) - 1


class Outgoing:
    """Of one datapath. `told` is for each record the state word that the group knows of; 0: none."""

    def __init__(self, datapath: Datapath, registry: Registry, relay: str, run: int) -> None:
        self._datapath = datapath
        self._registry = registry
        self.relay = relay
        self._run = run
        self.sequence = 0
        self._told = np.zeros(len(datapath.flows), np.uint32)

    def grow(self) -> None:
        """The table may be larger than it was."""
        more = len(self._datapath.flows) - len(self._told)
        self._told = np.concatenate((self._told, np.zeros(more, np.uint32)))

    @property
    def position(self) -> tuple[int, int]:
        """Run and sequence of what was told last."""
        return self._run, self.sequence

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Those that this relay tells of: its own, in the order of their numbers."""
        return tuple(address for _, address in sorted(self._datapath.own_relays.items()))

    def changes(self, now: Clock) -> Iterator[Message]:
        """Messages of what is different. It counts as told: whoever cannot send one sends a list."""
        changed: list[Numbers] = []
        for relay in sorted(self._datapath.own_relays):
            words = self._live_words(relay)
            first = relay * self._datapath.layout.span
            told = self._told[first : first + len(words)]
            changed.append((np.flatnonzero(words != told) + first).astype(np.uint32))
        numbers = np.concatenate(changed) if changed else np.zeros(0, np.uint32)
        for part in parts(numbers, ROWS_MAX // 2):
            words = self._word_of(part)
            ended = part[(self._told[part] != 0)]
            rows_ended = self._ended(ended, self._told[ended])
            message = self._message(Kind.CHANGES, part[words != 0], now, rows_ended)
            self._told[part] = words
            if message.body:
                yield self._numbered(message)

    def list(self, now: Clock) -> Iterator[Message]:
        """Messages of all flows there are, which replace whatever was told."""
        numbers = np.concatenate(
            [
                (np.flatnonzero(self._live_words(relay)) + relay * self._datapath.layout.span)
                for relay in sorted(self._datapath.own_relays)
            ]
            or [np.zeros(0, np.int64)]
        ).astype(np.uint32)
        self._told[:] = 0
        self._told[numbers] = self._word_of(numbers)
        chunks = list(parts(numbers, ROWS_MAX)) or [numbers]
        for index, part in enumerate(chunks):
            message = self._message(Kind.LIST, part, now)
            message.is_first, message.is_last = index == 0, index == len(chunks) - 1
            yield self._numbered(message)

    def known(self, addresses: Collection[IPAddress], now: Clock) -> Iterator[Message]:
        """What is known here of others' addresses, for their relay, which has lost it."""
        datapath = self._datapath
        foreign = sorted(datapath.foreign_relays.items())
        relays = {number: address for number, address in foreign if address in addresses}
        for relay in relays:
            for part in parts(datapath.flows_at(relay), ROWS_MAX):
                live = part[self._word_of(part) != 0]
                yield self._message(Kind.KNOWN, live, now, relays=relays)

    def other(self, kind: Kind, addresses: Sequence[IPAddress] = (), body: bytes = b"") -> Message:
        """A message that may be missed."""
        return Message(
            self.relay, self._run, kind, self.sequence, tuple(addresses) or self.addresses, body=body
        )

    # ---- inside ---------------------------------------------------------------------------

    def _numbered(self, message: Message) -> Message:
        self.sequence += 1
        message.sequence = self.sequence
        return message

    def _live_words(self, relay: int) -> Numbers:
        """The state words of an address's records that are LIVE, 0 for the others."""
        span = self._datapath.layout.span
        return _live(self._datapath.flows["state"][relay * span : (relay + 1) * span])

    def _word_of(self, numbers: Numbers) -> Numbers:
        return _live(self._datapath.flows["state"][numbers])

    def _message(
        self,
        kind: Kind,
        numbers: Numbers,
        now: Clock,
        ended: Rows | None = None,
        relays: Mapping[int, IPAddress] | None = None,
    ) -> Message:
        """The flows of these records, behind those that have ended. `relays`: whose they are, if not ours."""
        relays = self._datapath.own_relays if relays is None else relays
        datapath, layout = self._datapath, self._datapath.layout
        records = datapath.flows[numbers]
        names: dict[SessionName, int] = {}
        sessions = np.zeros(len(numbers), np.uint32)
        is_known = np.ones(len(numbers), np.bool_)
        for index, number in enumerate(records["session"].tolist()):
            session = self._registry.session(number)
            if is_derived(number):
                sessions[index] = number
            elif session is not None:
                sessions[index] = names.setdefault(self._registry.name_of(session), len(names))
            else:
                is_known[index] = False  # it is about to be ended
        backends, places = np.unique(records["backend"], return_inverse=True)
        rows = np.zeros(len(numbers), ROW)
        for name in ("client_addr", "client_port", "vip"):
            rows[name] = records[name]
        rows["port"] = layout.port_min + numbers % layout.span
        rows["relay"] = np.searchsorted(sorted(relays), numbers // layout.span)
        rows["session"], rows["backend"], rows["is_live"] = sessions, places.reshape(-1), 1
        rows["word"] = records["state"] >> np.uint32(abi.FLOW_STATE_BITS)
        ages = (now.seconds - rows["word"].astype(np.float64)) * 1000
        rows["age"] = np.clip(ages, 0, _AGE_MAX).astype(np.uint32)
        body = rows[is_known].tobytes()
        return Message(
            self.relay,
            self._run,
            kind,
            self.sequence,
            tuple(relays[number] for number in sorted(relays)),
            tuple(self._datapath.vips),
            tuple(self._backend(number) for number in backends.tolist()),
            tuple(names),
            body=(b"" if ended is None else ended.tobytes()) + body,
        )

    def _ended(self, numbers: Numbers, words: Numbers) -> Rows:
        layout = self._datapath.layout
        rows = np.zeros(len(numbers), ROW)
        rows["port"] = layout.port_min + numbers % layout.span
        rows["relay"] = np.searchsorted(sorted(self._datapath.own_relays), numbers // layout.span)
        rows["word"] = words >> np.uint32(abi.FLOW_STATE_BITS)
        return rows

    def _backend(self, number: int) -> Endpoint:
        return endpoint_of(self._datapath.backends[number])


def _live(words: Numbers) -> Numbers:
    live: Numbers = np.where(words & STATE_MASK == np.uint32(abi.FlowState.LIVE), words, np.uint32(0))
    return live
