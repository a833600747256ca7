# SPDX-License-Identifier: Apache-2.0
"""Slices of long work take turns, and let others pass."""

from __future__ import annotations

import asyncio

import pytest

from control import turns
from control.turns import ROUNDS, Turns


async def test_one_slice_at_a_time_in_the_order_in_which_they_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WORK_SECONDS", 0)
    shared, order = Turns(), []

    async def work(name: str) -> None:
        for _ in range(2):
            async with shared.slice():
                order.append(name)

    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while len(order) < 6:
            rounds += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(work(name))
        tasks.create_task(others())
    assert order == [*"abcabc"]
    # Between six slices there are five times as many rounds as are given away each time.
    assert rounds >= 5 * ROUNDS


async def test_short_slices_are_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WORK_SECONDS", 3600)
    shared, passed = Turns(), []
    asyncio.get_running_loop().call_soon(passed.append, True)
    for _ in range(10):
        async with shared.slice():
            assert not passed


async def test_a_failed_slice_lets_the_next_one_in() -> None:
    shared = Turns()
    with pytest.raises(ValueError, match="broken"):
        async with shared.slice():
            raise ValueError("broken")
    async with asyncio.timeout(5), shared.slice():
        pass
