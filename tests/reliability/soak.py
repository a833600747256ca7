# SPDX-License-Identifier: Apache-2.0
"""A long time under faults: `scripts/soak`.

100 calls talk all the time and may lose nothing. Others come and go. Every few seconds something happens
that docs/reliability.md has a row for. In the first half that includes the daemon's death; in the second
half one daemon has to bear it all, so that what it leaks shows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from control.cli.options import pinned_maps
from tests.lab.calls import wait_for
from tests.lab.relay_client import Attachment
from tests.reliability.churn import Churn
from tests.reliability.stage import Stage, set_up

CALLS = 100
PAUSE = (1.0, 4.0)  # seconds between faults
WARM_UP = 5.0
SETTLE_TIMEOUT = 30.0
MEMORY_MARGIN = 1.15  # of the daemon's: what an allocator may keep


@dataclass(frozen=True)
class Holdings:
    """What a relay holds when only the calls that talk are there."""

    sessions: int
    flows: int
    backends: int
    hops: int
    transceivers: int
    descriptors: int
    memory: int  # bytes, resident


@dataclass
class Result:
    """What a soak came to."""

    seconds: float = 0.0
    packets: int = 0
    lost: int = 0
    calls_begun: int = 0
    calls_refused: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    begin: Holdings | None = None
    middle: Holdings | None = None  # of the daemon that has to bear the second half
    end: Holdings | None = None

    def problems(self) -> list[str]:
        """What is not as it was; empty if all is well."""
        found = [f"{self.lost} packets of calls were lost"] if self.lost else []
        if self.begin is None or self.middle is None or self.end is None:
            return [*found, "it did not come to its end"]
        for before, what in ((self.begin, "beginning"), (self.middle, "middle")):
            for name in ("sessions", "flows", "backends", "hops", "transceivers", "descriptors"):
                if getattr(before, name) != getattr(self.end, name):
                    found.append(
                        f"{name}: {getattr(before, name)} in the {what}, {getattr(self.end, name)} in the end"
                    )
        if self.end.memory > self.middle.memory * MEMORY_MARGIN:
            found.append(
                f"memory: {self.middle.memory:,} bytes in the middle, {self.end.memory:,} in the end"
            )
        return found


class Soak:
    """One run."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._random = random.Random(seed)
        self._attached = ExitStack()
        self._attachment: Attachment | None = None
        self.result = Result()
        self._warm_up = WARM_UP

    def run(self, seconds: float) -> Result:
        stage, result = self._stage, self.result
        started = time.monotonic()
        self._warm_up = min(WARM_UP, seconds / 4)
        self._attach()
        self._rest()
        result.begin = self._holdings()
        self._half(seconds / 2, [*self._survived(), self._killed, self._restarted])
        # A daemon as old as the first one was, to begin with.
        self._restarted()
        self._rest()
        result.middle = self._holdings()
        self._half(seconds / 2, self._survived())
        self._rest()
        result.end = self._holdings()
        self._attached.close()
        result.seconds = time.monotonic() - started
        stage.assert_consistent()
        return result

    def _half(self, seconds: float, faults: list[Callable[[], None]]) -> None:
        churn = Churn(self._stage.site)
        with self._stage.traffic.flowing() as phase:
            churn.start()
            try:
                deadline = time.monotonic() + seconds
                while time.monotonic() < deadline:
                    time.sleep(self._random.uniform(*PAUSE))
                    fault = self._random.choice(faults)
                    name = fault.__name__.strip("_")
                    self.result.faults[name] = self.result.faults.get(name, 0) + 1
                    fault()
            finally:
                churn.end()
        self.result.packets += sum(phase.sent)
        self.result.lost += sum(phase.sent) - sum(phase.received)
        self.result.calls_begun += churn.begun
        self.result.calls_refused += churn.refused

    def _rest(self) -> None:
        """Some churn to fill every cache; then nothing but the calls that talk is left."""
        churn = Churn(self._stage.site)
        with self._stage.traffic.flowing():
            churn.start()
            time.sleep(self._warm_up)
            churn.end()
        calls = len(self._stage.crowd.members)

        def is_quiet() -> bool:
            with pinned_maps(self._stage.lab.pins) as datapath, self._stage.client() as relay:
                taken = int(np.count_nonzero(datapath.states()))
                return taken == calls and len(relay.sessions()) == calls

        wait_for(is_quiet, "what has ended is gone", SETTLE_TIMEOUT)
        wait_for(
            lambda: self._holdings().transceivers == 1, "the other transceiver is forgotten", SETTLE_TIMEOUT
        )

    def _holdings(self) -> Holdings:
        process = Path("/proc", str(self._daemon_pid()))
        with pinned_maps(self._stage.lab.pins) as datapath:
            keys, _ = datapath.read_sessions()
            return Holdings(
                sessions=len(keys),
                flows=int(np.count_nonzero(datapath.states())),
                backends=int(np.count_nonzero(datapath.backends["users"])),
                hops=int(np.count_nonzero(datapath.hops["ifindex"])),
                transceivers=sum(bool(owner["name"]) for owner in datapath.read_owners()),
                descriptors=len(os.listdir(process / "fd")),
                memory=int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            )

    def _daemon_pid(self) -> int:
        """The daemon itself: what starts it in its namespace becomes it."""
        return self._stage.daemon.pid

    def _attach(self) -> None:
        self._attached.close()
        self._attachment = self._attached.enter_context(self._stage.attached(timeout=None))

    # ---- faults ---------------------------------------------------------------------------

    def _survived(self) -> list[Callable[[], None]]:
        return [
            self._stopped_for_a_while,
            self._reloaded,
            self._upgraded,
            self._drained_and_undrained,
            self._reconnected,
            self._replaced_sessions,
            self._other_mac,
            self._bound_again,
        ]

    def _killed(self) -> None:
        self._stage.end(signal.SIGKILL)
        time.sleep(self._random.uniform(0, 3))
        self._stage.start()
        self._attach()

    def _restarted(self) -> None:
        self._stage.end(signal.SIGTERM)
        self._stage.start()
        self._attach()

    def _stopped_for_a_while(self) -> None:
        self._stage.daemon.send_signal(signal.SIGSTOP)
        time.sleep(self._random.uniform(0.5, 4))
        self._stage.daemon.send_signal(signal.SIGCONT)

    def _reloaded(self) -> None:
        self._stage.configure(**USUAL, flows_per_session=self._random.randrange(8, 64))
        said = self._stage.earshot("datapath", "reload")
        assert said.status == 0, said.err

    def _upgraded(self) -> None:
        said = self._stage.earshot("datapath", "upgrade")
        assert said.status == 0, said.err

    def _drained_and_undrained(self) -> None:
        assert self._stage.earshot("drain", "--deadline", "0").status == 1
        time.sleep(self._random.uniform(0, 1))
        assert self._stage.earshot("undrain").status == 0

    def _reconnected(self) -> None:
        self._attach()

    def _replaced_sessions(self) -> None:
        """Some of those that talk, by themselves: as a renewed ICE restart does."""
        assert self._attachment is not None
        for member in self._random.sample(self._stage.crowd.members, 10):
            assert self._attachment.add_session(member.session).code == 0

    def _other_mac(self) -> None:
        """The relay's link to the clients gets another address; they are told at once."""
        relay, client = self._stage.site.relay, self._stage.site.client
        mac = f"02:00:5e:10:{self._random.randrange(256):02x}:{self._random.randrange(256):02x}"
        relay.ip(f"link set dev {client.name} address {mac}")

    def _bound_again(self) -> None:
        """Every client sends a request, as each does every few seconds."""
        self._stage.crowd.bind()


# Calls that come and go take new flows of one address all the time; and grace is short, to see its end.
USUAL = {"source_requests_per_second": 0, "grace_seconds": 4}


def run(minutes: float, seed: int) -> Result:
    with set_up(calls=CALLS) as stage:
        stage.configure(**USUAL)
        stage.end()
        stage.start()
        soak = Soak(stage, seed)
        try:
            return soak.run(minutes * 60)
        except BaseException:
            # With the lab goes what would tell why.
            print(f"faults so far: {soak.result.faults}", stage.log()[-6000:], sep="\n")
            print(stage.earshot("stats").out, stage.earshot("transceiver", "list").out, sep="\n")
            raise


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Soaks a relay in faults.")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    flags = parser.parse_args()
    print(f"seed {flags.seed}, {flags.minutes:g} minutes")
    result = run(flags.minutes, flags.seed)
    text = json.dumps(asdict(result), indent=2)
    if flags.json:
        flags.json.write_text(text + "\n")
    print(text)
    for problem in result.problems():
        print(problem)
    return 1 if result.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
