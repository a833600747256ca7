# SPDX-License-Identifier: Apache-2.0
"""A relay with 200 calls that talk, and what may happen to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from control import abi
from control.cli.options import pinned_maps
from tests.lab.crowd import CALLS, Crowd, talking
from tests.lab.netns import Lab
from tests.lab.relay_client import STREAM_TIMEOUT, Attachment, RelayClient
from tests.lab.services import BIN, endpoint, relay_command, relay_target, start, start_relay
from tests.lab.topology import VIP_PORT, Site, two_armed
from tests.lab.traffic import RATE, Phase, Traffic
from tests.netns.command import Said

Record = Callable[[str, object], None]

STOP_TIMEOUT = 20


class Stage:
    """A site, its daemon, and the calls of one transceiver."""

    def __init__(self, site: Site, crowd: Crowd, traffic: Traffic, daemon: subprocess.Popen[bytes]) -> None:
        self.site = site
        self.crowd = crowd
        self.traffic = traffic
        self.daemon = daemon

    @property
    def lab(self) -> Lab:
        return self.site.lab

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """The daemon is killed, or stops."""
        self.daemon.send_signal(number)
        self.daemon.wait(STOP_TIMEOUT)

    def start(self, *flags: str) -> None:
        if self.config.exists():
            flags = (f"--config={self.config}", *flags)
            self.daemon = start(self.lab, self.site.relay, str(BIN / "earshotd"), *flags)
        else:
            self.daemon = start_relay(self.site, *flags)

    def start_release(self, daemon: Path) -> None:
        """Another release's daemon, with the usual settings."""
        _, *flags = relay_command(self.site)
        self.daemon = start(self.lab, self.site.relay, str(daemon), *flags)

    def popen(self, daemon: Path = BIN / "earshotd", *more: str) -> subprocess.Popen[bytes]:
        """The same, or this release's, without waiting for it."""
        _, *flags = relay_command(self.site, *more)
        self.daemon = self.lab.popen(self.site.relay, str(daemon), *flags, log="earshotd")
        return self.daemon

    def earshot(self, *argv: str, wrapper: tuple[str, ...] = ()) -> Said:
        """The command line, in the relay host."""
        done = subprocess.run(
            self.site.relay.command(*wrapper, str(BIN / "earshot"), *argv),
            env={
                **os.environ,
                "EARSHOT_PIN_PATH": str(self.lab.pins),
                "EARSHOT_GRPC_SOCKET": f"{self.lab.dir}/earshotd.sock",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    @property
    def config(self) -> Path:
        """The daemon's settings, where they are not flags."""
        return self.lab.dir / "earshotd.toml"

    def configure(self, **changes: object) -> None:
        """Writes the daemon's settings: what a site needs, and changes to it."""
        addresses = self.site.addresses.values()
        settings = {
            "name": "relay",
            "interfaces": list(self.site.interfaces),
            "vips": [endpoint(family.vip, VIP_PORT) for family in addresses],
            "relay_addresses": [family.relay for family in addresses],
            "grpc_socket": f"{self.lab.dir}/earshotd.sock",
            "pin_path": str(self.lab.pins),
            **changes,
        }
        self.config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))

    def ensure(self, *flags: str) -> None:
        """A daemon with the usual settings runs, and every call is bound, whatever a test before has left."""
        if self.daemon.poll() is not None:
            self.start(*flags)
        with self.attached():
            if self.live_flows() != len(self.crowd.members):
                self.crowd.bind()
                self.traffic.connect(self.crowd.legs())

    def live_flows(self) -> int:
        """As the maps have it."""
        with pinned_maps(self.lab.pins) as datapath:
            return int(np.count_nonzero(datapath.states() == abi.FlowState.LIVE))

    def log(self) -> str:
        return self.lab.log("earshotd").read_text()

    @contextmanager
    def client(self) -> Iterator[RelayClient]:
        with RelayClient(relay_target(self.site)) as relay:
            yield relay

    @contextmanager
    def attached(self, timeout: float | None = STREAM_TIMEOUT) -> Iterator[Attachment]:
        """The transceiver's stream, with a snapshot of its sessions. Its end does not ask for the relay."""
        with self.client() as relay, relay.attach("crowd", timeout) as attachment:
            self.crowd.register(attachment)
            yield attachment

    def links_used(self, side: str) -> set[int]:
        """The ifindices by which clients, or transceivers, are reached."""
        with pinned_maps(self.lab.pins) as datapath:
            live = datapath.flows[datapath.states() == abi.FlowState.LIVE]
            if side == "client":
                hops = live["client_hop"]
            else:
                hops = datapath.backends["hop"][np.unique(live["backend"])]
            return set(np.unique(datapath.hops["ifindex"][np.unique(hops)]).tolist())

    def assert_consistent(self) -> None:
        """What the daemon says of sessions, and what the maps hold, are one and the same."""
        with self.client() as relay:
            told = {ufrag: one.session_id for one in relay.sessions() for ufrag in one.ufrags}
        with pinned_maps(self.lab.pins) as datapath:
            keys, values = datapath.read_sessions()
            held = {
                bytes(key["ufrag"]).decode(): bytes(value["id"]).decode()
                for key, value in zip(keys, values, strict=True)
            }
        assert held == told

    @contextmanager
    def flowing(self, record: Record, *ways: int) -> Iterator[Phase]:
        """Traffic, whose figures go to the test's results."""
        with self.traffic.flowing(*ways) as phase:
            yield phase
        record("sent", sum(phase.sent))
        record("lost", sum(phase.lost.values()))
        print(phase)


@contextmanager
def set_up(
    *flags: str, calls: int = CALLS, rate: float = RATE, prepare: Callable[[Site], None] = lambda _: None
) -> Iterator[Stage]:
    """A stage whose calls are bound, and not talking yet. `prepare` has its turn before the daemon."""
    with Lab() as lab:
        site = two_armed(lab)
        prepare(site)
        daemon = start_relay(site, *flags)
        crowd = Crowd(site, calls)
        try:
            with RelayClient(relay_target(site)) as relay, relay.attach("crowd") as attachment:
                crowd.register(attachment)
                crowd.bind()
        except Exception:
            print(lab.log("earshotd").read_text()[-6000:])  # a fixture's lab is not a test's to show
            raise
        with talking(crowd, rate) as traffic:
            yield Stage(site, crowd, traffic, daemon)


def assert_whole(phase: Phase, *ways: int) -> None:
    """Not one packet of any call was lost, these ways if not both."""
    if not phase.is_whole(*ways):
        worst = dict(sorted(phase.lost.items(), key=lambda item: -item[1])[:8])
        pytest.fail(
            f"{phase}; {phase.strange} strange; lost of {len(phase.lost)} streams, the worst: {worst}"
        )
