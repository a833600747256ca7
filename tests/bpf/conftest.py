# SPDX-License-Identifier: Apache-2.0
"""A loaded program for all packet tests; each test begins with the same maps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.bpf.case", "tests.bpf.rig")

from tests.bpf.rig import Rig, loaded_rig  # noqa: E402


@pytest.fixture(scope="session")
def session_rig() -> Iterator[Rig]:
    with loaded_rig() as rig:
        yield rig


@pytest.fixture
def rig(session_rig: Rig) -> Iterator[Rig]:
    """The test's thread is in the relay host, as its packets are."""
    with session_rig.relay.inside():
        session_rig.reset()
        yield session_rig
