# SPDX-License-Identifier: Apache-2.0
"""What Prometheus gets to see of the program in the kernel, and of what operators do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from control import libbpf, pinned
from tests.lab import scraping
from tests.lab.calls import wait_for
from tests.lab.netns import Lab, stop
from tests.lab.scraping import Values
from tests.lab.services import BIN, endpoint, start
from tests.lab.topology import IPV4, VIP_PORT, Site, two_armed
from tests.netns.command import Said
from tests.netns.test_capabilities import NEEDED, UID, confined

pytestmark = [pytest.mark.root, pytest.mark.netns]

PORT = 9556


class Relay:
    """A relay with its settings in a file, and its metrics."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.file = site.lab.dir / "earshotd.toml"
        self.configure()
        self.daemon = self.start()

    def configure(self, **changes: object) -> None:
        settings = {
            "name": "relay",
            "interfaces": list(self.site.interfaces),
            "vips": [endpoint(IPV4.vip, VIP_PORT)],
            "relay_addresses": [IPV4.relay],
            "grpc_socket": f"{self.site.lab.dir}/earshotd.sock",
            "pin_path": str(self.site.lab.pins),
            "metrics_listen": f"127.0.0.1:{PORT}",
            **changes,
        }
        self.file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))

    def start(self) -> subprocess.Popen[bytes]:
        return start(self.site.lab, self.site.relay, str(BIN / "earshotd"), "--config", str(self.file))

    def metrics(self) -> Values:
        return scraping.scrape(self.site.relay, "127.0.0.1", PORT)

    def earshot(self, *argv: str) -> Said:
        done = subprocess.run(
            self.site.relay.command(str(BIN / "earshot"), *argv),
            env={**os.environ, "EARSHOT_GRPC_SOCKET": f"{self.site.lab.dir}/earshotd.sock"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with Lab() as lab:
        yield Relay(two_armed(lab))


@contextmanager
def packets(site: Site) -> Iterator[None]:
    """A hundred small ones a second arrive at the relay host, for whom it may be, while the block runs."""
    enough = threading.Event()

    def send() -> None:
        with site.client.socket(socket.AF_INET) as sender:
            while not enough.wait(0.01):
                sender.sendto(b"x", (IPV4.vip, VIP_PORT))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield
    finally:
        enough.set()
        sending.join()


def test_the_program_that_runs(relay: Relay) -> None:
    values = relay.metrics()
    links = pinned.attached(relay.site.lab.pins)
    (tag,) = (key[1] for key in values if key[0] == "earshot_program_info")
    shown = json.loads(
        subprocess.run(
            ["bpftool", "-j", "prog", "show", "id", str(links[0].program_id)],
            capture_output=True,
            check=True,
            timeout=30,
        ).stdout
    )
    assert shown["tag"] == tag
    assert values["earshot_program_loaded_timestamp_seconds",] == pytest.approx(shown["loaded_at"], abs=2)
    for interface in relay.site.interfaces:
        assert values["earshot_program_attached", interface] == 1


def test_a_link_without_its_program_shows(relay: Relay) -> None:
    interface = relay.site.interfaces[0]
    with relay.site.relay.inside():
        number = socket.if_nametoindex(interface)
    (relay.site.lab.pins / f"link_{number}").unlink()
    wait_for(lambda: relay.metrics()["earshot_program_attached", interface] == 0, "it is not attached")
    assert relay.metrics()["earshot_program_attached", relay.site.interfaces[1]] == 1
    assert relay.earshot("datapath", "upgrade").status == 0  # which attaches it again
    assert relay.metrics()["earshot_program_attached", interface] == 1


def test_reloads_by_result(relay: Relay) -> None:
    before = relay.metrics()
    assert before["earshot_last_reload_successful",] == 1
    relay.configure(flow_idle_seconds=0)
    assert relay.earshot("datapath", "reload").status == 1
    refused = relay.metrics()
    assert refused["earshot_reloads_total", "refused"] == before["earshot_reloads_total", "refused"] + 1
    assert refused["earshot_last_reload_successful",] == 0
    since = ("earshot_last_reload_timestamp_seconds",)
    assert refused[since] == before[since]
    relay.configure(flow_idle_seconds=61)
    assert relay.earshot("datapath", "reload").status == 0
    after = relay.metrics()
    assert after["earshot_reloads_total", "ok"] == before["earshot_reloads_total", "ok"] + 1
    assert after["earshot_last_reload_successful",] == 1
    assert after[since] > before[since]


def test_upgrades_by_result(relay: Relay) -> None:
    before = relay.metrics()
    assert relay.earshot("datapath", "upgrade").status == 0
    after = relay.metrics()
    assert after["earshot_upgrades_total", "ok"] == before["earshot_upgrades_total", "ok"] + 1
    assert after["earshot_last_upgrade_successful",] == 1
    since = ("earshot_last_upgrade_timestamp_seconds",)
    assert after[since] > before[since]
    loaded = ("earshot_program_loaded_timestamp_seconds",)
    assert after[loaded] > before[loaded]


def test_what_a_packet_takes_is_sampled_where_that_is_wanted(relay: Relay) -> None:
    counted = ("earshot_program_packet_seconds_count",)
    runs = ("earshot_program_runs_total",)
    with packets(relay.site):
        relay.configure(run_time_stats="off")
        assert relay.earshot("datapath", "reload").status == 0
        assert relay.metrics()[counted] == 0
        relay.configure(run_time_stats="sampled")
        assert relay.earshot("datapath", "reload").status == 0
        wait_for(lambda: relay.metrics()[counted] > 0, "a sample", timeout=90)
        values = relay.metrics()
    assert values[runs] > 0
    assert values["earshot_program_run_seconds_total",] > 0
    relay.configure()
    assert relay.earshot("datapath", "reload").status == 0


def test_the_kernels_own_statistics_show_without_samples(relay: Relay) -> None:
    """Whoever has them on, as by the sysctl: nothing of ours needs to be allowed more."""
    statistics = libbpf.enable_run_time_statistics()
    try:
        before = relay.metrics()["earshot_program_runs_total",]
        with packets(relay.site):
            wait_for(lambda: relay.metrics()["earshot_program_runs_total",] > before, "runs are counted")
    finally:
        os.close(statistics)


def test_samples_take_a_capability_that_the_daemon_does_without() -> None:
    with Lab() as lab:
        site = two_armed(lab)
        lab.pins.mkdir(mode=0o700)
        os.chown(lab.pins, UID, UID)
        command = [
            *confined(*NEEDED),
            str(BIN / "earshotd"),
            f"--interface={site.interfaces[0]}",
            f"--vip={endpoint(IPV4.vip, VIP_PORT)}",
            f"--relay-address={IPV4.relay}",
            f"--pin-path={lab.pins}",
            f"--grpc-socket={lab.dir}/earshotd.sock",
            "--run-time-stats=sampled",
        ]
        done = subprocess.run(
            site.relay.command(*command), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2
        assert "field=run_time_stats" in done.stderr
        assert "CAP_SYS_ADMIN" in done.stderr


def test_after_the_daemon_metrics_are_gone_and_the_next_one_has_them(relay: Relay) -> None:
    packets_key = ("earshot_datapath_packets_total", "host", "pass_not_ip")
    before = relay.metrics()[packets_key]
    stop(relay.daemon)
    with pytest.raises(ConnectionError):
        relay.metrics()
    relay.daemon = relay.start()
    assert relay.metrics()[packets_key] >= before  # the maps count, not the daemon
