# SPDX-License-Identifier: Apache-2.0
"""The daemon and a simple model of it: hypothesis makes up what transceivers do, and when the daemon dies.

Both have to agree on every answer, and after each step the daemon's lists, the maps and the model agree.
The everyday run takes some ten seconds. EARSHOT_CONTROL_CASES asks for another number of cases (and so many
deaths), EARSHOT_CONTROL_SEED, a number, for other ones.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from earshot.relay.v1 import relay_pb2 as pb
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from control.cli.options import pinned_maps
from control.records import owners_of
from tests.lab.calls import wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.services import relay_target, start_relay
from tests.lab.topology import two_armed
from tests.netns.raw_stream import add, remove, renew
from tests.reliability.control_model import MAX_UFRAGS, MAX_UFRAGS_EACH, Known, Model

EVERYDAY_CASES = 12
CASES = int(os.environ.get("EARSHOT_CONTROL_CASES", EVERYDAY_CASES))
SEED = int(os.environ.get("EARSHOT_CONTROL_SEED", "1"))
# Of what takes a second or more, in all cases together.
ALLOWED = {
    "restart": CASES // 6,
    "die in a batch": CASES // 5,
    "stay away": max(1, CASES // 20),
    "expire": max(1, CASES // 15),
}
pytestmark = [
    pytest.mark.root,
    pytest.mark.netns,
    pytest.mark.timeout(120 if CASES <= EVERYDAY_CASES else 0),
]

GRACE_SECONDS = 3
TRANSCEIVER = "10.20.0.10"

names = st.sampled_from(("a", "b"))
ids = st.sampled_from(("s1", "s2", "s3"))
ufrags = st.lists(st.sampled_from([f"ufrag{n}" for n in range(7)]), min_size=1, max_size=2, unique=True)
adds = st.builds(
    lambda session_id, held, port, ttl: add(session_id, *held, to=[(TRANSCEIVER, port)], ttl_seconds=ttl),
    ids,
    ufrags,
    st.sampled_from((4000, 4001, 4002)),
    st.sampled_from((0, 3600)),
)
operations = st.one_of(adds, adds, ids.map(renew), ids.map(remove))
snapshots = st.lists(adds.map(lambda operation: operation.add), max_size=4)


class Stand:
    """A relay for the machine, which makes a new state machine for each case."""

    def __init__(self, lab: Lab) -> None:
        self.site = two_armed(lab)
        self.steps: Counter[str] = Counter()
        self._start()

    def may(self, what: str) -> bool:
        """Counts it, unless there was enough of it. No precondition: these must not change by themselves."""
        if self.steps[what] >= ALLOWED[what]:
            return False
        self.steps[what] += 1
        return True

    def _start(self) -> None:
        limits = (f"--max-sessions={MAX_UFRAGS}", f"--max-sessions-per-transceiver={MAX_UFRAGS_EACH}")
        self.daemon = start_relay(self.site, *limits, f"--grace-seconds={GRACE_SECONDS}")

    def restart(self, number: signal.Signals) -> None:
        self.daemon.send_signal(number)
        self.daemon.wait(20)
        self._start()


class Machine(RuleBasedStateMachine):
    """One case."""

    stand: Stand

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.stack = contextlib.ExitStack()
        self.streams: dict[str, Attachment] = {}

    @initialize()
    def begin(self) -> None:
        """Both are attached, and have nothing."""
        self.model.sessions = self._told()  # of the case before
        self._connect()
        for name, stream in self.streams.items():
            stream.snapshot()
            self.model.snapshot(name, [])

    def teardown(self) -> None:
        self._disconnect()

    @rule(name=names, wanted=st.lists(operations, min_size=1, max_size=5))
    def batch(self, name: str, wanted: list[pb.Operation]) -> None:
        self.stand.steps["batch"] += 1
        codes = [result.code for result in self.streams[name].batch(*wanted)]
        assert codes == [self.model.carry_out(name, operation) for operation in wanted]

    @rule(name=names, wanted=snapshots)
    def snapshot(self, name: str, wanted: list[pb.Session]) -> None:
        self.stand.steps["snapshot"] += 1
        result = self.streams[name].snapshot(*wanted)
        assert ([one.code for one in result.results], result.removed) == self.model.snapshot(name, wanted)

    @rule(name=names, polite=st.booleans())
    def reconnect(self, name: str, polite: bool) -> None:
        """Its stream breaks first, or is replaced by the new one."""
        self.stand.steps["reconnect"] += 1
        if polite:
            self.streams[name].__exit__(None, None, None)
        self._attach(name)

    @rule(number=st.sampled_from((signal.SIGKILL, signal.SIGTERM)))
    def restart(self, number: signal.Signals) -> None:
        if not self.stand.may("restart"):
            return
        self._disconnect()
        self.stand.restart(number)
        self._connect()

    @rule(name=names, wanted=st.lists(operations, min_size=1, max_size=5), then=snapshots)
    def die_in_a_batch(self, name: str, wanted: list[pb.Operation], then: list[pb.Session]) -> None:
        """Nobody knows how far it came, but what is there is whole, and a snapshot puts it right."""
        if not self.stand.may("die in a batch"):
            return
        asked = pb.AttachRequest(batch=pb.Batch(batch_id=1, operations=wanted))
        self.streams[name]._send(asked)
        self.stand.daemon.kill()
        self._disconnect()
        self.stand.restart(signal.SIGKILL)
        self.model.sessions = self._told()
        self._connect()
        self.snapshot(name, then)

    @rule(name=names)
    def stay_away(self, name: str) -> None:
        if not self.stand.may("stay away"):
            return
        self.streams[name].__exit__(None, None, None)
        wait_for(lambda: all(key[0] != name for key in self._told()), "its sessions end", 30)
        for session_id in self.model.of(name):
            del self.model.sessions[name, session_id]
        self._attach(name)

    @rule(name=names, operation=adds)
    def expire(self, name: str, operation: pb.Operation) -> None:
        if not self.stand.may("expire"):
            return
        operation.add.ttl_seconds = 1
        (result,) = self.streams[name].batch(operation)
        assert result.code == self.model.carry_out(name, operation)
        if result.code == 0:
            key = (name, operation.add.session_id)
            wait_for(lambda: key not in self._told(), "it expires", 30)
            del self.model.sessions[key]

    @invariant()
    def all_say_the_same(self) -> None:
        assert self._told() == self.model.sessions
        self._assert_maps()

    # ---- inside ---------------------------------------------------------------------------

    def _connect(self) -> None:
        self.relay = self.stack.enter_context(RelayClient(relay_target(self.stand.site)))
        for name in ("a", "b"):
            self._attach(name)

    def _attach(self, name: str) -> None:
        self.streams[name] = self.relay.attach(name)
        assert self.streams[name].welcome.sessions == len(self.model.of(name))

    def _disconnect(self) -> None:
        for stream in self.streams.values():
            with contextlib.suppress(grpc.RpcError):
                stream.__exit__(None, None, None)
        self.streams.clear()
        self.stack.close()

    def _told(self) -> dict[tuple[str, str], Known]:
        """What the daemon lists."""
        with RelayClient(relay_target(self.stand.site)) as relay:
            return {
                (one.transceiver, one.session_id): Known(
                    frozenset(one.ufrags), one.endpoints[0].port, bool(one.ttl_seconds)
                )
                for one in relay.sessions()
            }

    def _assert_maps(self) -> None:
        with pinned_maps(self.stand.site.lab.pins) as datapath:
            keys, values = datapath.read_sessions()
            owners = dict(owners_of(datapath.read_owners()))
            held: dict[tuple[str, str], set[str]] = {}
            numbers: dict[tuple[str, str], set[int]] = {}
            for key, value in zip(keys, values, strict=True):
                name = (owners[int(value["owner"])], _text(value["id"]))
                held.setdefault(name, set()).add(_text(key["ufrag"]))
                numbers.setdefault(name, set()).add(int(value["number"]))
            used = datapath.backends[datapath.backends["users"] > 0]
            users = Counter({int(one["port"]): int(one["users"]) for one in used})
        assert held == {name: known.ufrags for name, known in self.model.sessions.items()}
        assert all(len(one) == 1 for one in numbers.values())
        assert len(set().union(*numbers.values())) == len(numbers) if numbers else True
        assert users == self.model.users()


def _text(raw: Any) -> str:
    return bytes(np.bytes_(raw)).decode()


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with Lab() as lab:
        yield Stand(lab)


def test_daemon_maps_and_model_agree(stand: Stand) -> None:
    class Bound(Machine):
        pass

    Bound.stand = stand
    made: Any = seed(SEED)(Bound)
    run_machine(
        made,
        settings=settings(
            max_examples=CASES,
            stateful_step_count=15,
            database=None,
            deadline=None,
            print_blob=True,
            # Not shrunk: a death takes a second, and those that are allowed are counted.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"\ncontrol plane: {CASES} cases, {dict(stand.steps)}")
    assert {"batch", "snapshot", "reconnect", *ALLOWED} == stand.steps.keys()
