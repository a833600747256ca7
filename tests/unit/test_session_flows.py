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
steps = st.lists(additions | st.lists(records, max_size=4), max_size=12)


@given(steps=steps)
def test_as_a_dictionary_would_have_it(steps: list[dict[int, int] | list[int]]) -> None:
    flows, plain = SessionFlows(RECORDS), dict[int, int]()
    for step in steps:
        if isinstance(step, dict):
            flows.add(np.array(list(step), np.uint32), np.array(list(step.values()), np.uint32))
            plain.update(step)
        else:
            flows.discard(step)
            for number in step:
                plain.pop(number, None)
        for session in SESSIONS:
            expected = {number for number, its in plain.items() if its == session}
            found = flows.of(session)
            assert len(found) == len(set(found))
            assert set(found) == expected


def test_one_record_alone() -> None:
    flows = SessionFlows(1)
    flows.add(np.array([0], np.uint32), np.array([5], np.uint32))
    assert flows.of(5) == [0]
    flows.discard([0])
    assert flows.of(5) == []
