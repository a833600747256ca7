# SPDX-License-Identifier: Apache-2.0
"""Sessions to the map's records and back, whichever order the map gives them in."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from control.abi import BACKEND, CLOCK_BITS, CLOCK_UNIT
from control.addresses import parse_endpoint
from control.backends import Backend
from control.model import Session, UfragKey
from control.records import backends_of, session_records, sessions_of, write_backends

NOW = 1000.5

# Of each: ufrags (with a pwd or without), backends, owner, seconds left (None: no end), FINGERPRINT optional,
# RTP's clock rate.
shapes = st.lists(
    st.tuples(
        st.lists(st.booleans(), min_size=1, max_size=4),
        st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
        st.integers(0, 1023),
        st.none() | st.integers(-5, 100),
        st.booleans(),
        st.integers(0, (1 << CLOCK_BITS) - 1).map(lambda units: units * CLOCK_UNIT),
    ),
    max_size=12,
)


def made(index: int, shape: tuple[list[bool], tuple[int, int], int, int | None, bool, int]) -> Session:
    pwds, backends, owner, left, optional, clock_rate = shape
    keys = tuple(
        UfragKey(f"u{index}/{n}", bytes([index, n, *range(1, 39)]) if has_pwd else b"")
        for n, has_pwd in enumerate(pwds)
    )
    expires = 0 if left is None else 1000 + left
    ttl = 0 if left is None else max(1, int(expires - NOW))
    return Session(index + 1, f"session-{index}", owner, keys, backends, ttl, expires, optional, clock_rate)


@given(shapes=shapes, seed=st.integers(0, 1 << 32))
def test_what_is_written_is_read(
    shapes: list[tuple[list[bool], tuple[int, int], int, int | None, bool, int]], seed: int
) -> None:
    sessions = [made(index, shape) for index, shape in enumerate(shapes)]
    keys, values = session_records({key.ufrag: session for session in sessions for key in session.keys})
    order = np.array(random.Random(seed).sample(range(len(keys)), len(keys)), np.intp)
    found = sessions_of(keys[order], values[order], NOW)
    assert [session._replace(keys=()) for session in found] == [one._replace(keys=()) for one in sessions]
    assert [set(session.keys) for session in found] == [set(session.keys) for session in sessions]


def test_backends_are_entered_once_and_counted_each_time() -> None:
    records = np.zeros(4, BACKEND)
    first, second = (Backend(n, parse_endpoint(f"10.0.0.{n}:4000"), users=n) for n in (1, 2))
    write_backends(records, [first, second], {1: 7})
    records["hop"][1] = 8  # as who follows the routes does
    first.users, second.users = 11, 0
    write_backends(records, [second, first], {2: 9})
    assert records["users"].tolist() == [0, 11, 0, 0]
    assert records["hop"].tolist() == [0, 8, 9, 0]
    assert [(one.number, str(one.endpoint)) for one in backends_of(records)] == [
        (1, "10.0.0.1:4000"),
        (2, "10.0.0.2:4000"),
    ]
