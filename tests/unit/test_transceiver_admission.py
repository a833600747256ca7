# SPDX-License-Identifier: Apache-2.0
"""Who is let in: by how busy the process is, and by tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transceiver.admission import Admission, Load
from transceiver.tokens import Tokens


def test_a_load_is_the_share_of_a_core() -> None:
    load = Load(0.0, 0.0)
    for second in range(1, 60):
        load.sample(now=second, cpu=second * 0.6, expected=second - 0.01)
    assert load.share == pytest.approx(0.6, abs=0.01)
    assert load.late == pytest.approx(0.01, abs=0.001)
    for second in range(60, 100):
        load.sample(now=second, cpu=59 * 0.6, expected=second)
    assert load.share < 0.01


def busy(admission: Admission, share: float, late: float = 0.0) -> None:
    admission._load.share, admission._load.late = share, late


def test_no_room_beyond_a_share_of_the_core() -> None:
    admission = Admission(calls=100, load=0.5, setups=1000)
    assert admission.refusal(0) is None
    busy(admission, 0.6)
    assert "busy" in str(admission.refusal(10))
    busy(admission, 0.0, late=0.05)
    assert "busy" in str(admission.refusal(10))
    busy(admission, 0.1)
    assert admission.refusal(10) is None
    unlimited = Admission(calls=100, load=1.0, setups=1000)
    busy(unlimited, 5.0, late=1.0)
    assert unlimited.refusal(10) is None


def test_calls_that_were_just_taken_count_before_they_cost() -> None:
    admission = Admission(calls=100, load=0.5, setups=1000)
    busy(admission, 0.3)  # ten calls, of 0.03 each
    taken = 0
    while admission.refusal(10) is None:
        taken += 1
        assert taken < 20
    assert taken == 7


def test_no_more_calls_and_setups_than_allowed() -> None:
    admission = Admission(calls=3, load=1.0, setups=2)
    assert "3 calls" in str(admission.refusal(3))
    assert [admission.refusal(0) is None for _ in range(3)] == [True, True, False]
    assert "a second" in str(admission.refusal(0))


def test_no_room_where_nobody_would_answer() -> None:
    assert Admission(3, 1.0, 2, lambda: "no backend").refusal(0) == "no backend"


def test_tokens_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# who\nfirst\n\n  second  \n")
    tokens = Tokens(path)
    assert tokens.allow("Bearer first")
    assert tokens.allow("bearer  second ")
    for wrong in (
        None,
        "",
        "first",
        "Basic first",
        "Bearer",
        "Bearer firs",
        "Bearer # who",
        "Bearer f\udcff",
    ):
        assert not tokens.allow(wrong)


def test_tokens_change_with_their_file_but_never_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("old\n")
    tokens = Tokens(path)
    new = tmp_path / "new"
    new.write_text("new\n")
    os.replace(new, path)
    assert tokens.allow("Bearer new")
    assert not tokens.allow("Bearer old")
    path.write_text("# nothing\n")
    assert tokens.allow("Bearer new")
    path.unlink()
    assert tokens.allow("Bearer new")


def test_no_token_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="no token"):
        Tokens(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        Tokens(tmp_path / "none")
