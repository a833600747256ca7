# SPDX-License-Identifier: Apache-2.0
"""Relay addresses keep their numbers, and leave them to others when they are gone."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from control import abi
from control.errors import DatapathError
from control.relay_numbers import assign

A, B, C, D = (ip_address(f"10.0.0.{number}") for number in (1, 2, 3, 4))
SIX = ip_address("fd00::1")


def test_new_ones_are_numbered_in_order() -> None:
    assert assign((), (), (A, SIX, B)) == {0: A, 1: SIX, 2: B}


def test_who_is_known_keeps_its_number_whatever_the_order() -> None:
    assert assign((A, SIX, B), {0, 1, 2}, (B, A, C)) == {2: B, 0: A, 3: C}


def test_who_is_leaving_keeps_its_number_too() -> None:
    assert assign((A, SIX, B), {0, 1, 2}, (A, SIX, C)) == {0: A, 1: SIX, 3: C}
    assert assign((A, SIX, B), {0, 1, 2}, (A, SIX, C, B)) == {0: A, 1: SIX, 3: C, 2: B}


def test_the_number_of_one_that_is_gone_is_for_the_next_of_its_family() -> None:
    assert assign((A, SIX, B), {0, 1}, (A, SIX, C, D)) == {0: A, 1: SIX, 2: C, 3: D}
    assert assign((A, SIX), {0}, (A, B)) == {0: A, 2: B}


def test_one_that_is_gone_may_come_back() -> None:
    assert assign((A, B), {0}, (A, C, B)) == {0: A, 2: C, 1: B}


def test_too_many_with_those_that_are_left() -> None:
    known = tuple(A + number for number in range(abi.RELAY_MAX))
    wanted = (*known[1:], ip_address("10.0.1.1"))
    with pytest.raises(DatapathError, match="too many"):
        assign(known, set(range(abi.RELAY_MAX)), wanted)
    assert len(assign(known, set(range(1, abi.RELAY_MAX)), wanted)) == len(known)
