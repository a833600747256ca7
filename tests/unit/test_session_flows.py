# SPDX-License-Identifier: Apache-2.0
"""The lists of sessions' flows, beside a plain dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from control.session_flows import SessionFlows

RECORDS = 16
# Alike in their low bits, and not: 16 lists.
SESSIONS = (1, 2, 17, 33, 34, 2**32 - 1)

records = st.integers(0, RECORDS - 1)
additions = st.dictionaries(records, st.sampled_from(SESSIONS), max_size=RECORDS)


@given(steps=st.lists(additions, max_size=12))
def test_as_a_dictionary_would_have_it(steps: list[dict[int, int]]) -> None:
    flows, plain = SessionFlows(RECORDS), dict[int, int]()
    for step in steps:
        flows.add(np.array(list(step), np.uint32), np.array(list(step.values()), np.uint32))
        plain.update(step)
        for session in SESSIONS:
            expected = {number for number, its in plain.items() if its == session}
            found = flows.of(session)
            assert len(found) == len(set(found))
            assert set(found) == expected


def test_one_record_alone() -> None:
    flows = SessionFlows(1)
    flows.add(np.array([0], np.uint32), np.array([5], np.uint32))
    assert flows.of(5) == [0]
    flows.add(np.array([0], np.uint32), np.array([6], np.uint32))
    assert (flows.of(5), flows.of(6)) == ([], [0])
