# SPDX-License-Identifier: Apache-2.0
"""The bottom of the directory, at a real redis-server that goes, hangs, and forgets."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from control import pki
from control.directory.errors import AwayError, Refusal, Refusals, SealError
from control.directory.journal import FIELD, Journal, Message
from control.directory.link import Link
from control.directory.presence import LEASE_SECONDS, Presence
from control.directory.seal import Sealer
from control.directory.target import Target
from control.errors import ConfigError
from fleet.key import FleetKey
from tests.fleet.node import KEYS
from tests.lab.redis import RedisServer, free_port, redis_server

SECONDS = 20.0


async def take(tail: AsyncIterator[list[Message]], count: int) -> list[Message]:
    """So many messages of a tail, as they come."""
    messages: list[Message] = []
    async with asyncio.timeout(SECONDS):
        async for some in tail:
            messages += some
            if len(messages) >= count:
                break
    return messages


async def until_up(link: Link) -> None:
    """Returns once Redis has answered."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await link.call(lambda client: client.ping())
            except AwayError:
                await link.pause()
            else:
                return


# ---- where Redis is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h.example", "redis://h.example:6379/0"),
        ("rediss://me@h.example:7000/3", "rediss://h.example:7000/3"),
        ("redis://[2001:db8::1]:6380", "redis://[2001:db8::1]:6380/0"),
    ],
)
def test_a_target_is_read(url: str, shown: str) -> None:
    assert str(Target.of(url)) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h.example:6379",
        "http://h.example",
        "redis://",
        "redis://h.example:port",
        "redis://h.example:0",
        "redis://h.example/zero",
        "redis://me:secret@h.example",
        "redis://h.example?db=1",
    ],
)
def test_what_is_no_target_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        Target.of(url)
    assert error.value.field == "directory"
    assert "secret" not in str(error.value)


# ---- the link ----------------------------------------------------------------------------------


async def test_a_link_knows_whether_redis_answers(redis: RedisServer, link: Link) -> None:
    assert not link.is_up
    await link.call(lambda client: client.ping())
    assert link.is_up
    redis.kill()
    with pytest.raises(AwayError):
        await link.call(lambda client: client.ping())
    assert not link.is_up
    redis.start()
    await until_up(link)
    assert link.is_up


async def test_a_redis_that_hangs_is_away_and_the_next_answer_is_to_its_own_question(
    redis: RedisServer, link: Link
) -> None:
    await link.call(lambda client: client.set("who", "first"))
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        with pytest.raises(AwayError):
            await link.call(lambda client: client.get("who"), 0.2)
        assert not link.is_up
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    assert await link.call(lambda client: client.echo("second")) == b"second"


async def test_a_password_comes_from_a_file(redis: RedisServer, link: Link, tmp_path: Path) -> None:
    await link.call(lambda client: client.config_set("requirepass", "open sesame"))
    path = tmp_path / "password"
    path.write_text("open sesame\n")
    with_it, without = Link(Target.of(redis.url, path)), Link(Target.of(redis.url))
    assert await with_it.call(lambda client: client.ping())
    with pytest.raises(AwayError):
        await without.call(lambda client: client.ping())
    await with_it.close()
    await without.close()


async def test_a_user_has_a_name_in_the_url_and_a_password_in_the_file(
    redis: RedisServer, link: Link, tmp_path: Path
) -> None:
    redis.cli("ACL", "SETUSER", "relay", "on", ">open sesame", "~*", "+@all")
    path = tmp_path / "password"
    path.write_text("open sesame\n")
    named = Link(Target.of(redis.url.replace("redis://", "redis://relay@"), path))
    assert await named.call(lambda client: client.acl_whoami()) == "relay"
    await named.close()


async def test_over_tls_redis_has_to_be_who_it_says(tmp_path: Path) -> None:
    folder, port = tmp_path / "pki", free_port()
    pki.init(folder, ["localhost"], 1)
    flags = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    for flag, name in (("cert", "relay.crt"), ("key", "relay.key"), ("ca-cert", "ca.crt")):
        flags += [f"--tls-{flag}-file", str(folder / name)]
    with redis_server(tmp_path, *flags):
        known = Link(Target.of(f"rediss://localhost:{port}", ca_file=folder / "ca.crt"))
        unknown = Link(Target.of(f"rediss://localhost:{port}"))
        assert await known.call(lambda client: client.ping())
        with pytest.raises(AwayError):
            await unknown.call(lambda client: client.ping())
        await known.close()
        await unknown.close()


# ---- seals -------------------------------------------------------------------------------------


def test_a_seal_opens_in_its_place_alone(sealer: Sealer) -> None:
    other = Sealer(KEYS)
    sealed = sealer.seal(b"here", b"payload")
    assert other.unseal(b"here", sealed) == (b"payload", sealer.instance, 1)
    assert b"payload" not in sealed
    with pytest.raises(SealError) as error:
        other.unseal(b"there", sealed)
    assert error.value.why is Refusal.FORGED


def test_each_byte_of_a_seal_counts(sealer: Sealer) -> None:
    sealed = sealer.seal(b"here", b"payload")
    for index in range(len(sealed)):
        changed = bytearray(sealed)
        changed[index] ^= 1
        with pytest.raises(SealError) as error:
            sealer.unseal(b"here", bytes(changed))
        assert error.value.why is {0: Refusal.VERSION, 1: Refusal.KEY}.get(index, Refusal.FORGED)
    for length in range(len(sealed)):
        with pytest.raises(SealError):
            sealer.unseal(b"here", sealed[:length])


def test_another_fleets_key_of_the_same_number_opens_nothing(sealer: Sealer) -> None:
    with pytest.raises(SealError) as error:
        Sealer({3: FleetKey.of(bytes(32))}).unseal(b"here", sealer.seal(b"here", b"payload"))
    assert error.value.why is Refusal.FORGED


def test_the_first_key_seals_and_the_others_open(sealer: Sealer) -> None:
    new = {5: FleetKey.of(bytes(32)), **KEYS}
    reader = Sealer(new)
    assert reader.unseal(b"here", sealer.seal(b"here", b"old")).payload == b"old"
    with pytest.raises(SealError) as error:
        sealer.unseal(b"here", reader.seal(b"here", b"new"))
    assert error.value.why is Refusal.KEY
    assert not sealer.set_keys({**KEYS, **new})  # known now, and not yet used
    assert sealer.unseal(b"here", reader.seal(b"here", b"new")).payload == b"new"
    assert sealer.set_keys(new)
    assert reader.unseal(b"here", sealer.seal(b"here", b"new, too")).payload == b"new, too"


def test_no_two_daemons_seal_alike() -> None:
    assert Sealer(KEYS).seal(b"here", b"payload") != Sealer(KEYS).seal(b"here", b"payload")


# ---- journals ----------------------------------------------------------------------------------


async def test_a_journal_is_read_in_order_from_a_position_on(link: Link, refusals: Refusals) -> None:
    writer = Journal(link, Sealer(KEYS), refusals, "test")
    reader = Journal(link, Sealer(KEYS), refusals, "test")
    first = await writer.append(b"1")
    for number in range(2, 200):
        await writer.append(b"%d" % number)
    async with aclosing(reader.tail(first)) as tail:
        messages = await take(tail, 198)
    assert [int(message.payload) for message in messages] == list(range(2, 200))
    assert [message.counter for message in messages] == list(range(2, 200))
    assert not refusals.counts


async def test_a_journal_keeps_no_more_than_it_may(link: Link, sealer: Sealer, refusals: Refusals) -> None:
    journal = Journal(link, sealer, refusals, "test", most=100)
    for _ in range(500):
        await journal.append(b"")
    assert 100 <= await link.call(lambda client: client.xlen(journal.key)) <= 200  # about: whole nodes


async def test_what_cannot_be_believed_is_left_out_and_counted(
    link: Link, sealer: Sealer, refusals: Refusals
) -> None:
    journal = Journal(link, sealer, refusals, "test")
    elsewhere = Journal(link, sealer, refusals, "elsewhere")
    for fields in (
        {b"x": b"no message"},
        {FIELD: b""},
        {FIELD: b"\x02" + bytes(100)},
        {FIELD: b"\x01\x09" + bytes(100)},
        {FIELD: b"\x01\x03" + bytes(100)},
        {FIELD: elsewhere.seal(b"moved")},
    ):
        await link.call(lambda client, fields=fields: client.xadd(journal.key, fields))  # type: ignore[misc]
    await journal.append(b"true")
    async with aclosing(journal.tail("0-0")) as tail:
        assert [message.payload for message in await take(tail, 1)] == [b"true"]
    assert refusals.counts == {
        Refusal.MALFORMED: 2,
        Refusal.VERSION: 1,
        Refusal.KEY: 1,
        Refusal.FORGED: 2,
    }


async def test_a_tail_outlives_redis_and_finds_its_place_in_an_empty_one(
    redis: RedisServer, link: Link, sealer: Sealer, refusals: Refusals
) -> None:
    journal = Journal(link, sealer, refusals, "test")
    # As if the clock of the one before had been ahead: what comes now has lower positions.
    ahead = f"{int(time.time() * 1000) + 3_600_000}-0"
    await link.call(lambda client: client.xadd(journal.key, {FIELD: journal.seal(b"before")}, id=ahead))
    async with aclosing(journal.tail("0-0")) as tail:
        assert [message.payload for message in await take(tail, 1)] == [b"before"]
        redis.kill()
        redis.start()
        await until_up(link)
        await journal.append(b"after")
        assert [message.payload for message in await take(tail, 1)] == [b"after"]


# ---- names -------------------------------------------------------------------------------------


async def test_a_name_is_one_daemons_and_passes_on_when_it_leaves(link: Link) -> None:
    first, second = (Presence(link, "relay-1", Sealer(KEYS).instance) for _ in range(2))
    other = Presence(link, "relay-2", Sealer(KEYS).instance)
    for presence in (first, second, other):
        await presence.keep(100.0)
    assert (first.is_ours, second.is_ours, other.is_ours) == (True, False, True)
    assert not second.is_disputed  # the first one may be dead
    await second.keep(100.1 + LEASE_SECONDS)
    assert second.is_disputed
    await first.keep(100.2 + LEASE_SECONDS)
    assert not first.is_disputed
    await first.leave()
    await second.keep(100.3 + LEASE_SECONDS)
    assert second.is_ours
    assert not second.is_disputed
    await first.leave()  # no longer its own
    await first.keep(100.4 + LEASE_SECONDS)
    assert not first.is_ours
