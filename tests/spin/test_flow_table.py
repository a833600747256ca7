# SPDX-License-Identifier: Apache-2.0
"""The protocol of docs/flow-table.md holds, says spin, and spin would say if it did not.

The model is flow_table.pml; docs/flow-table-proof.md says what is in it. More and larger searches:
scripts/nightly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.spin.checks import EVERYDAY, LONG, MUTATIONS, Mutation, World
from tests.spin.explore import MODEL, Found, explore

SOURCES = "".join(file.read_text() for file in sorted(MODEL.parent.glob("*.h")))


Question = tuple[World, tuple[str, ...]]  # and what is wrong on purpose in it


def question(item: pytest.Function) -> Question:
    """What a test asks spin."""
    asked: dict[str, Any] = dict(item.callspec.params)
    if "world" in asked:
        return asked["world"], ()
    return asked["mutation"].world, (f"BREAK_{asked['mutation'].name}",)


@pytest.fixture(scope="module")
def searches(request: pytest.FixtureRequest) -> Iterator[dict[Question, Future[Found]]]:
    """All that the tests of this run ask, in their order: one search on each CPU that is this process's."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    asked = [question(item) for item in tests if "found" in item.fixturenames and item.path == request.path]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // processes)) as pool:
        yield {one: pool.submit(explore, one[0], *one[1]) for one in asked}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def found(request: pytest.FixtureRequest, searches: dict[Question, Future[Found]]) -> Found:
    """The answer to this test's question."""
    return searches[question(request.node)].result()


@pytest.mark.parametrize("world", EVERYDAY, ids=str)
def test_protocol_holds(world: World, found: Found) -> None:
    assert not found.error, f"{world}: {found.error}\n{found.trail}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: str(mutation.name))
def test_mutation_is_found(mutation: Mutation, found: Found) -> None:
    """Spin finds what is wrong on purpose, by the claim that it breaks."""
    assert found.claim == mutation.breaks, f"{mutation.why}: found {found.error or 'nothing'}\n{found.trail}"


def test_every_mutation_of_the_model_is_tried() -> None:
    """Also those that harm nothing: the long searches say so."""
    tried = {f"BREAK_{mutation.name}" for mutation in MUTATIONS}
    tried |= {name for world in LONG for name in world.defines if name.startswith("BREAK_")}
    assert tried == set(re.findall(r"BREAK_[A-Z0-9_]+", SOURCES))


def test_every_setup_is_searched() -> None:
    searched = {name for world in [*EVERYDAY, *LONG] for name in world.defines if name.startswith("SETUP_")}
    assert searched == set(re.findall(r"ifdef (SETUP_[A-Z]+)", SOURCES))


def test_every_claim_is_broken_by_some_mutation() -> None:
    claims = {
        name for names in re.findall(r"hidden byte ([a-z_, ]+);", SOURCES) for name in names.split(", ")
    }
    claims = {claim for claim in claims if f"|| {claim})" in SOURCES}
    assert {mutation.breaks for mutation in MUTATIONS} == claims
