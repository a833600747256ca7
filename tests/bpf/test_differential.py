# SPDX-License-Identifier: Apache-2.0
"""The program and the plain model (tests/model) on the same packets, in the same states.

Hypothesis makes both up: a few flows and queues to begin with, then some packets in a row, so
that bindings, confirmations and answers happen; and between them what the daemon does: flows of
other relays are entered, sessions end. Whatever the two do differently fails.

The everyday run has 2,000 cases, the same ones every time. EARSHOT_DIFFERENTIAL_CASES asks for another
number, and EARSHOT_DIFFERENTIAL_SEED, a number, for other ones (scripts/nightly).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from control.abi import Reason
from tests.bpf.differential.acts import Act
from tests.bpf.differential.cases import cases
from tests.bpf.differential.people import SESSIONS
from tests.bpf.differential.starts import Start
from tests.bpf.differential.steps import Step
from tests.bpf.differential.twin import Twin
from tests.bpf.rig import Rig
from tests.model.relay import Decision

EVERYDAY_CASES = 2000
CASES = int(os.environ.get("EARSHOT_DIFFERENTIAL_CASES", EVERYDAY_CASES))
SEED = int(os.environ.get("EARSHOT_DIFFERENTIAL_SEED", "1"))

# Half a minute in the everyday run; as long as it takes where somebody asked for more.
TIMEOUT = 600 if CASES <= EVERYDAY_CASES else 0
pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.timeout(TIMEOUT)]


Case = tuple[Start, list[Step | Act]]
# All that can become of a flow of another relay (docs/packet-semantics.md, 6).
OUTCOMES = {
    *("forward_bound", "forward_rebound", "forward_to_transceiver", "aborted_bad_number"),
    *("drop_unroutable", "drop_hops_full", "drop_busy"),
    *("drop_stale_flow", "drop_free_list", "drop_index_full"),
}


class Tellings:
    """How often what was decided: what the cases reach."""

    def __init__(self) -> None:
        self.cases = 0
        self.reasons: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()  # of flows of other relays
        self.by_foreign: Counter[str] = Counter()  # reasons of packets that went by those, or that ended one

    def count(self, decision: Decision, before: set[int], after: set[int]) -> None:
        """Before and after: the flows of other relays."""
        self.reasons[decision.reason] += 1
        if decision.record in after:
            self.by_foreign[decision.reason] += 1
        elif before - after:
            self.by_foreign[f"{decision.reason}, away from one"] += 1


@pytest.fixture(scope="module")
def twin(session_rig: Rig) -> Twin:
    with session_rig.relay.inside():
        return Twin(session_rig, SESSIONS)


@pytest.fixture(scope="module")
def tellings() -> Iterator[Tellings]:
    made = Tellings()
    yield made
    packets = sum(made.reasons.values())
    print(f"\ndifferential: {made.cases} cases, {packets} packets, {len(made.reasons)} reasons")
    for reason, count in made.reasons.most_common():
        print(f"  {count:8} {reason}")
    print(f"{made.outcomes.total()} flows of other relays")
    for outcome, count in made.outcomes.most_common():
        print(f"  {count:8} {outcome}")
    print(f"{made.by_foreign.total()} packets by them, or away from them")
    for reason, count in made.by_foreign.most_common():
        print(f"  {count:8} {reason}")


@seed(SEED)
@settings(
    max_examples=CASES,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def test_program_and_model_agree(twin: Twin, tellings: Tellings, case: Case) -> None:
    start, steps = case
    tellings.cases += 1
    with twin.rig.relay.inside():
        twin.prepare(start)
        for step in steps:
            if isinstance(step, Step):
                before = twin.foreign_flows()
                tellings.count(twin.send(*step.frame(twin.relay)), before, twin.foreign_flows())
            else:
                tellings.outcomes.update(twin.do(step))


def test_the_cases_reach_every_reason(tellings: Tellings) -> None:
    """Else they say nothing about it."""
    assert tellings.reasons.keys() == {reason.name.lower() for reason in Reason}


def test_the_cases_reach_every_outcome(tellings: Tellings) -> None:
    assert tellings.outcomes.keys() == OUTCOMES
    # Clients' and transceivers' packets by such flows; clients that ask for another session, or whose
    # transceiver confirms what they have asked before.
    assert tellings.by_foreign.keys() >= {
        "forward_to_transceiver",
        "forward_to_client",
        "forward_rebound, away from one",
        "forward_to_client, away from one",
    }
