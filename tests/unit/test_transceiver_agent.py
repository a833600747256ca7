# SPDX-License-Identifier: Apache-2.0
"""Which credentials hold, and which path media takes."""

from __future__ import annotations

from transceiver.agent import ROAM_AFTER, Agent

SOON, LATE = ROAM_AFTER / 2, 2 * ROAM_AFTER


def started() -> Agent[str]:
    """An agent whose client has shown the path A at time 0."""
    agent: Agent[str] = Agent()
    agent.checked(agent.newest.ufrag, "A", False, 0.0)
    return agent


def test_the_first_check_gives_the_path() -> None:
    assert started().path == "A"


def test_another_path_waits_until_the_first_is_silent() -> None:
    agent = started()
    agent.checked(agent.newest.ufrag, "B", False, SOON)
    assert agent.path == "A"
    agent.checked(agent.newest.ufrag, "B", False, LATE)
    assert agent.path == "B"


def test_media_keeps_a_path_and_moves_to_one() -> None:
    agent = started()
    agent.heard("A", LATE)
    agent.heard("B", LATE + SOON)
    assert agent.path == "A"
    agent.heard("B", 2 * LATE)
    assert agent.path == "B"


def test_a_nomination_moves_at_once() -> None:
    agent = started()
    agent.checked(agent.newest.ufrag, "B", True, SOON)
    assert agent.path == "B"


def test_a_lost_path_is_replaced_by_the_next_that_is_heard() -> None:
    agent = started()
    agent.lost("B")
    assert agent.path == "A"
    agent.lost("A")
    assert agent.path is None
    agent.heard("B", SOON)
    assert agent.path == "B"


def test_credentials_are_random_and_hide_their_pwd() -> None:
    one, other = started().newest, started().newest
    assert one != other
    assert one.pwd not in repr(one)


def test_old_credentials_hold_until_media_comes_where_the_new_ones_are_used() -> None:
    agent = started()
    (old,) = agent.credentials
    agent.restart()
    assert agent.credentials == (old, agent.newest)
    assert (agent.pwd_of(old.ufrag), agent.pwd_of(agent.newest.ufrag)) == (old.pwd, agent.newest.pwd)
    assert agent.heard("A", 0.1) is None
    agent.checked(agent.newest.ufrag, "B", True, 0.2)
    assert agent.heard("A", 0.2) is None  # still on its way when the client changed over
    assert agent.credentials == (old, agent.newest)
    assert agent.heard("B", 0.3) == old
    assert agent.credentials == (agent.newest,)
    assert agent.pwd_of(old.ufrag) is None
    assert agent.heard("B", 0.4) is None


def test_on_the_same_path_the_nomination_tells_that_the_client_has_changed_over() -> None:
    agent = started()
    (old,) = agent.credentials
    agent.restart()
    agent.checked(agent.newest.ufrag, "A", False, 0.1)
    assert agent.heard("A", 0.2) is None
    agent.checked(agent.newest.ufrag, "A", True, 0.3)
    assert agent.heard("A", 0.4) == old


def test_a_client_that_does_not_nominate_changes_over_by_roaming() -> None:
    agent = started()
    (old,) = agent.credentials
    agent.restart()
    agent.checked(agent.newest.ufrag, "B", False, SOON)
    assert agent.path == "A"
    assert agent.heard("B", LATE) == old
    assert agent.path == "B"


def test_checks_with_the_old_credentials_end_no_restart() -> None:
    agent = started()
    (old,) = agent.credentials
    agent.restart()
    agent.checked(old.ufrag, "B", True, 0.1)
    assert agent.heard("B", 0.2) is None
    assert len(agent.credentials) == 2


def test_a_restart_overtakes_another() -> None:
    agent = started()
    (old,) = agent.credentials
    agent.restart()
    overtaken = agent.newest
    agent.checked(overtaken.ufrag, "B", True, 0.1)
    agent.restart()
    assert agent.credentials == (old, agent.newest)
    assert agent.pwd_of(overtaken.ufrag) is None
    assert agent.heard("B", 0.2) is None


def test_a_restart_is_withdrawn() -> None:
    agent = started()
    before = agent.credentials
    agent.restart()
    agent.withdraw()
    assert agent.credentials == before
