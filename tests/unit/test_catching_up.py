# SPDX-License-Identifier: Apache-2.0
"""When a relay that has just started may be sent packets."""

from __future__ import annotations

from control.replication.catching_up import ALONE_SECONDS, LISTEN_SECONDS, CatchingUp

START = 1000.0


def is_over(
    catching_up: CatchingUp, after: float, *, listening: bool = True, whole: bool = True, waiting: str = ""
) -> bool:
    """After so many seconds; `waiting` names records."""
    return catching_up.is_over(
        START + after, is_listening=listening, is_whole=whole, waiting={ord(one) for one in waiting}
    )


def test_it_listens_first_for_those_who_are_there() -> None:
    catching_up = CatchingUp(START)
    assert not is_over(catching_up, 0.0, listening=False)
    assert not is_over(catching_up, 1.0)
    assert not is_over(catching_up, 0.9 + LISTEN_SECONDS)
    assert is_over(catching_up, 1.0 + LISTEN_SECONDS)


def test_it_waits_for_lists_and_for_what_they_named() -> None:
    catching_up = CatchingUp(START)
    assert not is_over(catching_up, 0.0, whole=False, waiting="a")
    assert not is_over(catching_up, 20.0, whole=False, waiting="ab")
    assert not is_over(catching_up, 21.0, waiting="abc")
    assert not is_over(catching_up, 22.0, waiting="bc")
    assert is_over(catching_up, 23.0, waiting="x")


def test_what_is_told_meanwhile_does_not_count() -> None:
    """On a relay of many calls something waits for its session all the time."""
    catching_up = CatchingUp(START)
    assert not is_over(catching_up, 0.0)
    assert not is_over(catching_up, LISTEN_SECONDS, waiting="a")
    assert not is_over(catching_up, LISTEN_SECONDS + 1, whole=False, waiting="ab")
    assert is_over(catching_up, LISTEN_SECONDS + 2, whole=False, waiting="bc")


def test_without_the_directory_it_goes_on_alone_and_hears_the_others_when_it_can() -> None:
    catching_up = CatchingUp(START)
    assert not is_over(catching_up, ALONE_SECONDS - 0.1, listening=False)
    assert is_over(catching_up, ALONE_SECONDS, listening=False)
