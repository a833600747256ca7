# SPDX-License-Identifier: Apache-2.0
"""Where sessions stand in Redis: leases, states, and the stream that tells of every change of a state.

    earshot:lease:T     "EPOCH SEQUENCE DAEMON": whose the transceiver is, and how far its state is written
    earshot:state:T     a hash: sealed Registration of each session by its id, and the sealed Head as ""
    earshot:sessions    a journal of sealed Entries

A lease, a state, and what the stream says of it change in one step, which is refused if somebody else has
changed the lease since. So there is one writer for each transceiver, however late a write of an earlier one
arrives. Leases are not sealed: who forges one keeps relays from writing, as does who stops Redis. Whom a
transceiver belongs to is believed from sealed messages alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from earshot.directory.v1 import directory_pb2 as pb
from google.protobuf.message import DecodeError

from control.directory.errors import Refusal, SealError
from control.directory.journal import PREFIX, Journal
from control.directory.link import Link
from control.directory.seal import Sealer

HEAD = b""
# What nobody has touched for so long was left behind by relays that are no more.
KEPT_SECONDS = 86400
_CHUNK = 1000  # fields in a command of the script; Lua's stack is limited

# ARGV: messages to keep, the stream's message, seconds to keep, and for each transceiver: what its lease
# has to be ("": any of a lower epoch), what it will be (""; it is forgotten), the epoch, "1" if its state is
# written anew, how many fields and values follow, how many fields to remove.
_WRITE = """
local at, refused = 4, {}
for index = 2, #KEYS, 2 do
    local stored = redis.call('GET', KEYS[index])
    local epoch = tonumber(string.match(stored or '', '^%d+')) or 0
    local lower = ARGV[at] == '' and epoch < tonumber(ARGV[at + 2])
    if not lower and stored ~= ARGV[at] then
        refused[#refused + 1] = index / 2 - 1
        refused[#refused + 1] = stored or ''
    end
    at = at + 6 + ARGV[at + 4] + ARGV[at + 5]
end
if #refused > 0 then return refused end
at = 4
for index = 2, #KEYS, 2 do
    local lease, state = KEYS[index], KEYS[index + 1]
    local sets, removals = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
    if ARGV[at + 3] == '1' then redis.call('DEL', state) end
    if ARGV[at + 1] == '' then
        redis.call('DEL', lease, state)
    else
        redis.call('SET', lease, ARGV[at + 1], 'EX', ARGV[3])
        local first, last = at + 6, at + 5 + sets
        for start = first, last, CHUNK do
            redis.call('HSET', state, unpack(ARGV, start, math.min(start + CHUNK - 1, last)))
        end
        first, last = last + 1, last + removals
        for start = first, last, CHUNK do
            redis.call('HDEL', state, unpack(ARGV, start, math.min(start + CHUNK - 1, last)))
        end
        redis.call('EXPIRE', state, ARGV[3])
    end
    at = at + 6 + sets + removals
end
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'm', ARGV[2])
""".replace("CHUNK", str(_CHUNK))


class Lease(NamedTuple):
    """What a lease says."""

    epoch: int
    sequence: int
    instance: str  # the daemon's random number, hexadecimal

    @classmethod
    def of(cls, stored: bytes | None) -> Lease:
        """What stands there; of epoch 0 where nothing does, or nothing that could be one."""
        try:
            epoch, sequence, instance = (stored or b"").decode("ascii").split(" ")
            return cls(int(epoch), int(sequence), instance)
        except ValueError:
            return cls(0, 0, "")

    def __str__(self) -> str:
        return f"{self.epoch} {self.sequence} {self.instance}"


@dataclass(slots=True)
class Part:
    """What is written of one transceiver in one step.

    Attributes:
        expected: its lease as it has to be; None: any of a lower epoch.
        lease: as it will be.
    """

    update: pb.Update
    expected: Lease | None
    lease: Lease
    add: dict[str, bytes] = field(default_factory=dict)


class Refused(NamedTuple):
    """The write was refused as a whole; of these transceivers, by position, the leases are others'."""

    leases: dict[int, Lease]


class State(NamedTuple):
    """What stands there of a transceiver."""

    head: pb.Head
    registrations: dict[str, bytes]


class SessionStore:
    """Writes and reads them."""

    def __init__(self, link: Link, sealer: Sealer, journal: Journal) -> None:
        self._link = link
        self._sealer = sealer
        self._journal = journal
        self._write = link.redis.register_script(_WRITE)

    async def write(self, parts: list[Part]) -> Refused | None:
        """All in one step. Raises AwayError: whether it was carried out is not known."""
        entry = pb.Entry(updates=[part.update for part in parts])
        message = self._journal.seal(entry.SerializeToString())
        keys = [self._journal.key]
        arguments: list[bytes | str | int] = [self._journal.most, message, KEPT_SECONDS]
        for part in parts:
            keys += [_lease_key(part.update.transceiver), _state_key(part.update.transceiver)]
            arguments += self._arguments(part)
        answer = await self._link.call(lambda _: self._write(keys=keys, args=arguments))
        if isinstance(answer, list):
            pairs = zip(answer[::2], answer[1::2], strict=True)
            return Refused({int(position): Lease.of(stored) for position, stored in pairs})
        return None

    def _arguments(self, part: Part) -> list[bytes | str | int]:
        update = part.update
        state = _state_key(update.transceiver)
        fields: list[bytes | str | int] = [HEAD, self._seal(state, "", update.head.SerializeToString())]
        for session_id, registration in part.add.items():
            fields += [session_id, self._seal(state, session_id, registration)]
        return [
            "" if part.expected is None else str(part.expected),
            "" if update.gone else str(part.lease),
            part.lease.epoch,
            int(update.whole),
            len(fields),
            len(update.remove),
            *fields,
            *update.remove,
        ]

    async def leases(self, names: list[str]) -> list[Lease]:
        """As they stand. Raises AwayError."""
        keys = [_lease_key(name) for name in names]
        return [Lease.of(stored) for stored in await self._link.call(lambda redis: redis.mget(keys))]

    async def touch(self, name: str) -> None:
        """What stands there of a transceiver is needed, although nothing changes. Raises AwayError."""
        for key in (_lease_key(name), _state_key(name)):
            await self._link.call(lambda redis, key=key: redis.expire(key, KEPT_SECONDS))  # type: ignore[misc]

    async def fields(self, name: str) -> dict[bytes, bytes]:
        """What stands there of a transceiver's state, sealed. Raises AwayError."""
        key = _state_key(name)
        found: dict[bytes, bytes] = await self._link.call(lambda redis: redis.hgetall(key))
        return found

    def head(self, name: str, sealed: bytes) -> tuple[pb.Head, bytes]:
        """Opens the head of a state, and says which daemon has sealed it. Raises SealError."""
        opened = self._sealer.unseal(_place(_state_key(name), ""), sealed)
        try:
            return pb.Head.FromString(opened.payload), opened.instance
        except DecodeError as error:
            raise SealError(Refusal.MALFORMED, str(error)) from None

    def open(self, name: str, session_id: str, sealed: bytes) -> bytes:
        """Opens what stands under a session's id. Raises SealError."""
        return self._sealer.unseal(_place(_state_key(name), session_id), sealed).payload

    def _seal(self, key: str, session_id: str, payload: bytes) -> bytes:
        return self._sealer.seal(_place(key, session_id), payload)


def _place(key: str, session_id: str) -> bytes:
    return f"{key}\0{session_id}".encode()


def _lease_key(name: str) -> str:
    return f"{PREFIX}:lease:{name}"


def _state_key(name: str) -> str:
    return f"{PREFIX}:state:{name}"
