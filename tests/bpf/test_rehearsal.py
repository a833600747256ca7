# SPDX-License-Identifier: Apache-2.0
"""The copy that `earshot why` asks: it says of each packet what happens to it, and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from control import live_program
from control.abi import Reason
from control.rehearsal import Rehearsal
from tests.bpf.case import Case
from tests.bpf.rig import Rig
from tests.bpf.test_table import TABLE
from tests.lab.nightly import NIGHTLY

pytestmark = [pytest.mark.root, pytest.mark.netns]

# Of each reason so many rows of the packet table; scripts/nightly takes them all.
ROWS_OF_A_REASON = 1000 if NIGHTLY else 2


def chosen() -> list[Case]:
    rows, seen = [], Counter[Reason]()
    for case in reversed(TABLE):  # those of flows and budgets first
        seen[case.reason] += 1
        if seen[case.reason] <= ROWS_OF_A_REASON:
            rows.append(case)
    return rows


@pytest.fixture(scope="module")
def rehearsal(session_rig: Rig) -> Iterator[Rehearsal]:
    with session_rig.relay.inside():
        live = live_program.read(session_rig.pin_path)
        made = Rehearsal(session_rig.datapath, live)
    assert made.is_same
    with made:
        yield made


def test_it_says_what_happens_and_nothing_changes(rig: Rig, rehearsal: Rehearsal) -> None:
    rows = chosen()
    assert {case.reason for case in rows} == set(Reason)
    for case in rows:
        rig.reset()
        for arrange in case.arrange:
            arrange(rig)
        before = rig.snapshot()
        said = rehearsal.run(case.frame, rig.ifindex[case.link])
        outcome = rig.run(case.frame, case.link)
        assert (said.reason, said.action) == (outcome.reason, outcome.action), case.name
        assert said.frame == outcome.frame, case.name
        for name, value in vars(before).items():
            now = getattr(outcome.before, name)
            assert (value == now).all() if hasattr(value, "dtype") else value == now, (case.name, name)
        if said.record is not None:
            assert outcome.after.flows[said.record] != outcome.before.flows[said.record], case.name
