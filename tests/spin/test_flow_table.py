# SPDX-License-Identifier: Apache-2.0
"""The protocol of docs/flow-table.md holds, says spin, and spin would say if it did not.

The model is flow_table.pml; docs/flow-table-proof.md says what is in it. More and larger searches:
scripts/nightly.
"""

from __future__ import annotations

import re

import pytest

from tests.spin.checks import EVERYDAY, LONG, MUTATIONS, Mutation, World
from tests.spin.explore import MODEL, explore

SOURCES = "".join(file.read_text() for file in sorted(MODEL.parent.glob("*.h")))


@pytest.mark.parametrize("world", EVERYDAY, ids=str)
def test_protocol_holds(world: World) -> None:
    found = explore(world)
    assert not found.error, f"{found.error}\n{found.trail}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: str(mutation.name))
def test_mutation_is_found(mutation: Mutation) -> None:
    """Spin finds what is wrong on purpose, by the claim that it breaks."""
    found = explore(mutation.world, f"BREAK_{mutation.name}")
    assert found.claim == mutation.breaks, f"{mutation.why}: found {found.error or 'nothing'}\n{found.trail}"


def test_every_mutation_of_the_model_is_tried() -> None:
    """Also those that harm nothing: the long searches say so."""
    tried = {f"BREAK_{mutation.name}" for mutation in MUTATIONS}
    tried |= {name for world in LONG for name in world.defines if name.startswith("BREAK_")}
    assert tried == set(re.findall(r"BREAK_[A-Z0-9_]+", SOURCES))


def test_every_setup_is_searched() -> None:
    searched = {name for world in [*EVERYDAY, *LONG] for name in world.defines if name.startswith("SETUP_")}
    assert searched == set(re.findall(r"ifdef (SETUP_[A-Z]+)", SOURCES))


def test_every_claim_is_broken_by_some_mutation() -> None:
    claims = {
        name for names in re.findall(r"hidden byte ([a-z_, ]+);", SOURCES) for name in names.split(", ")
    }
    claims = {claim for claim in claims if f"|| {claim})" in SOURCES}
    assert {mutation.breaks for mutation in MUTATIONS} == claims
