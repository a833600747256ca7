# SPDX-License-Identifier: Apache-2.0
"""A redis-server, and what relays have of it, for the tests of a fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from control.directory import directory, homes, members
from control.directory.errors import Refusals
from control.directory.link import Link
from control.directory.seal import Sealer
from control.directory.target import Target
from tests.fleet.events import known_crowd
from tests.fleet.node import GRACE, KEYS, World
from tests.fleet.relays import FLAGS, RELAYS, Relays
from tests.lab.crowd import Crowd
from tests.lab.fleet import Fleet
from tests.lab.group import Group, serving_group
from tests.lab.netns import Lab
from tests.lab.redis import RedisServer, redis_server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty one for each test."""
    with redis_server(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def link(redis: RedisServer) -> AsyncIterator[Link]:
    made = Link(Target.of(redis.url))
    yield made
    await made.close()


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(KEYS)


@pytest.fixture
def refusals() -> Refusals:
    return Refusals()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Three relays with a directory."""
    with Lab() as lab, Fleet(lab, len(RELAYS)) as made:
        made.start_all(*FLAGS)
        yield made


@pytest.fixture
def relays(fleet: Fleet) -> Iterator[Relays]:
    with ExitStack() as stack:
        yield Relays(fleet, stack)


GROUP_CALLS = 60


@pytest.fixture(scope="session")
def group() -> Iterator[Group]:
    """Two relays that forward each other's calls."""
    with serving_group(2) as made:
        yield made


@pytest.fixture(scope="session")
def crowd(group: Group) -> Iterator[Crowd]:
    with known_crowd(group, GROUP_CALLS) as made:
        yield made


@pytest.fixture
def world(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> World:
    """Time goes faster here than between relays."""
    monkeypatch.setattr(directory, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(directory, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(members, "_MOST_SECONDS", 0.5)
    monkeypatch.setattr(members, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(homes, "CHALLENGE_SECONDS", 0.5)
    monkeypatch.setattr(homes, "DAMAGE_SECONDS", 0.5)
    monkeypatch.setattr(homes, "MOST", 50)
    return World(redis, GRACE)
