# SPDX-License-Identifier: Apache-2.0
"""The soak, for a moment: EARSHOT_SOAK_MINUTES asks for a longer one. CI runs scripts/soak instead."""

from __future__ import annotations

import os

import pytest

from tests.reliability import soak

MINUTES = float(os.environ.get("EARSHOT_SOAK_MINUTES", "0.1"))
pytestmark = [
    pytest.mark.root,
    pytest.mark.netns,
    pytest.mark.nightly,
    pytest.mark.timeout(120 + 90 * MINUTES),
]


def test_all_is_back_where_it_began() -> None:
    result = soak.run(MINUTES, seed=1)
    print(result)
    assert result.problems() == []
    assert result.calls_begun > 0
