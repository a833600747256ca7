# SPDX-License-Identifier: Apache-2.0
"""The Debian package in a machine that has booted: installed, started, upgraded, removed while calls go on.

Needs a package in build/deb (deploy/deb/build), mmdebstrap and lintian.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy.machine import Machine, booted
from tests.lab.calls import RTP, Call, call, payload, wait_for
from tests.lab.host import run
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import endpoint
from tests.lab.topology import VIP_PORT, Site, two_armed
from tests.netns.test_capabilities import NEEDED

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.nightly, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PINS = "sys/fs/bpf/earshot"
CAPABILITY_NUMBERS = {"net_admin": 12, "perfmon": 38, "bpf": 39}


@pytest.fixture(scope="module")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in a later version."""
    folder = tmp_path_factory.mktemp("newer")
    run(["dpkg-deb", "-R", str(package), str(folder / "root")], timeout=120)
    control = folder / "root" / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 9:"))
    made = folder / "earshot_newer.deb"
    run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(folder / "root"), str(made)], timeout=120)
    shutil.rmtree(folder / "root")
    return made


@pytest.fixture
def site() -> Iterator[Site]:
    with Lab() as lab:
        yield two_armed(lab)


@pytest.fixture
def machine(site: Site, tmp_path: Path) -> Iterator[Machine]:
    with booted(site.relay, tmp_path / "machine") as made:
        yield made


def install(machine: Machine, package: Path, *, status: int = 0) -> str:
    shutil.copy(package, machine.root / "root" / package.name)
    return machine.run("dpkg", "--install", f"/root/{package.name}", status=status)


def configure(machine: Machine, site: Site, extra: str = "") -> None:
    addresses = site.addresses.values()
    vips = [endpoint(family.vip, VIP_PORT) for family in addresses]
    relays = [family.relay for family in addresses]
    lines = (
        f"interfaces = {list(site.interfaces)}",
        f"vips = {vips}",
        f"relay_addresses = {relays}",
        "grace_seconds = 600",
        extra,
    )
    (machine.root / "etc/earshot/earshotd.toml").write_text("\n".join(lines))


def configured(machine: Machine, site: Site, package: Path) -> None:
    install(machine, package)
    configure(machine, site)
    machine.run("systemctl", "enable", "--now", "earshotd")


def target(machine: Machine) -> str:
    return f"unix:{machine.root}/run/earshot/earshotd.sock"


def bound(machine: Machine, site: Site, held: ExitStack) -> Call:
    """A call that goes on until the block ends."""
    relay = held.enter_context(RelayClient(target(machine)))
    attachment = held.enter_context(relay.attach("transceiver"))
    made = held.enter_context(call(site, attachment, 4))
    made.bind(4)
    return made


def goes_on(made: Call) -> None:
    made.up(payload(RTP, 100))
    made.down(payload(RTP, 100))


def while_it_goes_on(made: Call, machine: Machine, *argv: str) -> str:
    """What a command says during which each packet of a call arrives, one after the other, both ways."""
    process = subprocess.Popen(
        machine.command(*argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    exchanged = 0
    while process.poll() is None:
        goes_on(made)
        exchanged += 1
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert exchanged > 10
    return said


def test_lintian_has_nothing_against_it(package: Path) -> None:
    run(["lintian", "--fail-on=error,warning", "--allow-root", str(package)], timeout=250)


def test_the_package_holds_no_path_of_the_machine_it_was_built_on(package: Path, tmp_path: Path) -> None:
    run(["dpkg-deb", "-x", str(package), str(tmp_path)], timeout=120)
    found = subprocess.run(
        ["grep", "-rlE", f"{ROOT}|/tmp/tmp\\.", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout == ""


def test_the_life_of_a_package(machine: Machine, site: Site, package: Path, newer: Path) -> None:
    with ExitStack() as held:
        # Installed: nothing has happened to the host yet.
        before = machine.run("sysctl", "--all", "--pattern", "forward")
        assert "next: write /etc/earshot/earshotd.toml" in install(machine, package)
        assert machine.run("systemctl", "is-enabled", "earshotd", status=1).strip() == "disabled"
        assert set(site.xdp_modes().values()) == {"none"}
        assert machine.run("sysctl", "--all", "--pattern", "forward") == before
        # Started as it came: it says what is missing, and tries again.
        machine.run("systemctl", "start", "earshotd", status=1)
        assert "bad configuration: interfaces: is required" in machine.property("earshotd", "StatusText")
        machine.run("systemctl", "stop", "earshotd")

        configure(machine, site)
        machine.run("earshot", "check")
        machine.run("systemctl", "enable", "--now", "earshotd")
        assert set(site.xdp_modes().values()) == {"native"}
        status = (machine.root / "proc" / machine.property("earshotd", "MainPID") / "status").read_text()
        wanted = sum(1 << CAPABILITY_NUMBERS[name] for name in NEEDED)
        for kind in ("CapEff", "CapPrm", "CapBnd"):
            assert f"{kind}:\t{wanted:016x}\n" in status
        assert "NoNewPrivs:\t1\n" in status
        assert "Seccomp:\t2\n" in status

        made = bound(machine, site, held)
        while_it_goes_on(made, machine, "systemctl", "restart", "earshotd")
        while_it_goes_on(made, machine, "systemctl", "reload", "earshotd")
        configure(machine, site, 'pin_path = "/sys/fs/bpf/other"')
        machine.run("systemctl", "reload", "earshotd", status=1)
        assert "pin_path: cannot change while earshotd runs" in machine.log("earshotd")
        assert machine.property("earshotd", "ActiveState") == "active"
        configure(machine, site)

        # Upgraded, to a later version and to the same once more.
        before = machine.property("earshotd", "MainPID")
        for _ in range(2):
            shutil.copy(newer, machine.root / "root/newer.deb")
            while_it_goes_on(made, machine, "dpkg", "--install", "/root/newer.deb")
            after = machine.property("earshotd", "MainPID")
            assert after not in {"0", before}
            before = after
        assert machine.property("earshotd", "ActiveState") == "active"
        # What was written into the conffile is kept.
        assert "grace_seconds = 600" in (machine.root / "etc/earshot/earshotd.toml").read_text()

        # Removed while the call goes on, and purged.
        said = while_it_goes_on(made, machine, "dpkg", "--remove", "earshot")
        assert "1 flows of calls were there" in said
        assert "apt purge earshot" in said
        goes_on(made)
        assert set(site.xdp_modes().values()) == {"native"}
        assert "detached from 2 links: calls that went through them have ended" in machine.run(
            "dpkg", "--purge", "earshot"
        )
        assert set(site.xdp_modes().values()) == {"none"}
        assert not (machine.root / PINS).exists()
        assert not (machine.root / "etc/earshot").exists()
        assert machine.run("systemctl", "is-enabled", "earshotd", status=1)


def test_a_daemon_that_hangs_is_started_anew(machine: Machine, site: Site, package: Path) -> None:
    with ExitStack() as held:
        install(machine, package)
        configure(machine, site)
        drop_in = machine.root / "run/systemd/system/earshotd.service.d"
        drop_in.mkdir(parents=True)
        # The machine's systemd keeps no log of its own; to this it says why the service has ended.
        tell = "ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >/run/earshot/result'"
        (drop_in / "soon.conf").write_text(f"[Service]\nWatchdogSec=5\n{tell}\n")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "enable", "--now", "earshotd")
        made = bound(machine, site, held)
        before = machine.property("earshotd", "MainPID")
        machine.run("kill", f"-{signal.SIGSTOP.value}", before)

        def restarted() -> bool:
            goes_on(made)
            return machine.property("earshotd", "NRestarts") == "1"

        wait_for(restarted, "the watchdog ends it, and it is started again", 60)
        wait_for(lambda: machine.property("earshotd", "SubState") == "running", "it is ready again", 60)
        assert (machine.root / "run/earshot/result").read_text() == "watchdog\n"
        goes_on(made)


def test_a_transceiver_as_a_service(machine: Machine, site: Site, package: Path) -> None:
    configured(machine, site, package)
    (machine.root / "etc/earshot/transceiver-one.env").write_text(
        f"EARSHOT_TRANSCEIVER_MEDIA_ADDRESS={site.addresses[4].relay}\n"
        "EARSHOT_TRANSCEIVER_HTTP=127.0.0.1:8080\n"
        "EARSHOT_TRANSCEIVER_WORKERS=2\n"
    )
    machine.run("systemctl", "enable", "--now", "earshot-transceiver@one")
    wait_for(
        lambda: machine.log("earshot-transceiver@one").count("event=worker_ready") == 2,
        "its workers attach",
        60,
    )
    names = [line.split()[0] for line in machine.run("earshot", "transceiver", "list").splitlines()[1:]]
    assert sorted(names) == ["one.0", "one.1"]
    assert "2 of 2 workers run" in machine.property("earshot-transceiver@one", "StatusText")
    status = (
        machine.root / "proc" / machine.property("earshot-transceiver@one", "MainPID") / "status"
    ).read_text()
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert f"{kind}:\t{0:016x}\n" in status
    assert machine.run("systemctl", "is-system-running").strip() == "running"
    # The relay comes and goes; it does not.
    before = machine.property("earshot-transceiver@one", "MainPID")
    machine.run("systemctl", "restart", "earshotd")
    wait_for(lambda: machine.log("earshotd").count("event=attached") == 4, "its workers attach again", 60)
    assert machine.property("earshot-transceiver@one", "MainPID") == before
    machine.run("systemctl", "stop", "earshot-transceiver@one")
    assert machine.property("earshot-transceiver@one", "Result") == "success"
    machine.run("systemctl", "start", "earshot-transceiver@two", status=1)  # it has no settings


def without_bpffs(machine: Machine, _: Site) -> str:
    machine.run("umount", "/sys/fs/bpf")
    return ""


def pins_of_root(machine: Machine, _: Site) -> str:
    """An earshotd that somebody has run as root has left its pins."""
    # With a limit: it is stopped when it has loaded, and its pins stay.
    machine.run("timeout", "--preserve-status", "5", "earshotd", "--grpc-socket", "/run/by-hand.sock")
    assert (machine.root / PINS / "flows_v2").owner() == "root"
    return ""


def another_program(machine: Machine, site: Site) -> str:
    """A link that is not free."""
    program = ROOT / "build" / "pass.bpf.o"
    source = ROOT / "tests" / "lab" / "pass.bpf.c"
    clang = ["clang-19", "-O2", "-g", "-target", "bpf", "-I", "/usr/include/x86_64-linux-gnu"]
    run([*clang, "-c", str(source), "-o", str(program)])
    site.relay.run(
        "ip", "link", "set", "dev", site.interfaces[0], "xdpdrv", "object", str(program), "section", "xdp"
    )
    return "another XDP program is attached: detach it (ip link set dev NAME xdp off;"


def a_link_that_is_not_there(machine: Machine, site: Site) -> str:
    configure(machine, site)
    text = (machine.root / "etc/earshot/earshotd.toml").read_text()
    (machine.root / "etc/earshot/earshotd.toml").write_text(text.replace(site.interfaces[0], "eth9"))
    return "no Ethernet link 'eth9' on this host"


@pytest.mark.parametrize("trouble", [without_bpffs, pins_of_root, another_program, a_link_that_is_not_there])
def test_trouble_at_start(
    machine: Machine, site: Site, package: Path, trouble: Callable[[Machine, Site], str]
) -> None:
    """It is mended, or it is said what to do; the host's own network is as it was."""
    install(machine, package)
    configure(machine, site)
    says = trouble(machine, site)
    modes = site.xdp_modes()
    machine.run("systemctl", "start", "earshotd", status=1 if says else 0)
    if says:
        assert says in machine.property("earshotd", "StatusText")
        assert site.xdp_modes() == modes
        machine.run("systemctl", "stop", "earshotd")
    else:
        assert set(site.xdp_modes().values()) == {"native"}
        with ExitStack() as held:
            goes_on(bound(machine, site, held))
    # The host reaches its neighbours by its own stack, all along.
    machine.run("ping", "-c", "1", "-W", "5", site.addresses[4].client)
