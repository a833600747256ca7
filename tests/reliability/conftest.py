# SPDX-License-Identifier: Apache-2.0
"""One stage for all that can happen to a relay and leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reliability.stage import Stage, set_up


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[Stage]:
    with set_up() as made:
        yield made


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    """The shared stage, with its daemon up, its sessions registered and every call bound."""
    shared_stage.ensure()
    return shared_stage
