# SPDX-License-Identifier: Apache-2.0
"""The packet table: packet and maps in; action, packet, and every word of the maps out."""

from __future__ import annotations

from collections import Counter

import pytest

from control.abi import Reason
from tests.bpf import (
    rows_bind,
    rows_budget,
    rows_flow,
    rows_headers,
    rows_provisional,
    rows_routable,
    rows_stun,
    rows_trust,
)
from tests.bpf.case import Case
from tests.bpf.packets import parse
from tests.bpf.rig import Rig

pytestmark = [pytest.mark.root, pytest.mark.netns]

TABLE = [
    *rows_headers.rows(),
    *rows_headers.every_length(),
    *rows_stun.rows(),
    *rows_trust.rows(),
    *rows_routable.rows(),
    *rows_flow.rows(),
    *rows_bind.rows(),
    *rows_provisional.rows(),
    *rows_budget.rows(),
]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_row(rig: Rig, case: Case) -> None:
    case.check(rig)


def test_every_reason_has_a_row() -> None:
    assert {case.reason for case in TABLE} == set(Reason)


def test_rows_have_names_of_their_own() -> None:
    assert [name for name, count in Counter(case.name for case in TABLE).items() if count > 1] == []


def test_checksums_of_what_must_come_out() -> None:
    """The frames expected hold themselves, but for those that came in damaged."""
    forwarded = [case for case in TABLE if case.out is not None and "damaged" not in case.name]
    assert forwarded
    for case in forwarded:
        assert case.out is not None
        assert parse(case.out).ttl == parse(case.frame).ttl - 1
