# SPDX-License-Identifier: Apache-2.0
"""The container image, built from the package and run: by an ordinary user, with what an engine adds.

Needs a package in build/deb (deploy/deb/build), buildah, mmdebstrap, and minutes. The base is made of
Debian's packages, so no registry is asked; containers run in a chroot, so no engine is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.calls import RTP, call, payload, wait_for
from tests.lab.host import run
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import endpoint, start
from tests.lab.topology import VIP_PORT, Site, two_armed
from tests.netns.test_capabilities import NEEDED

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.nightly, pytest.mark.timeout(900)]

DEPLOY = Path(__file__).parents[2] / "deploy"
BASE, IMAGE = "localhost/earshot-test-base:bookworm-slim", "localhost/earshot-test"
UID = 64100
LARGEST = 360  # MB, unpacked
# What buildah gives unless it is told not to.
DEFAULTS = (
    *("audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod", "net_bind_service"),
    *("net_raw", "setfcap", "setgid", "setpcap", "setuid", "sys_chroot"),
)


def buildah(*argv: str) -> str:
    return run(["buildah", *argv], timeout=60).strip()


@pytest.fixture(scope="module")
def image(package: Path) -> Iterator[str]:
    if not buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        subprocess.run([DEPLOY / "container/base", BASE], check=True, timeout=600)
    subprocess.run(
        [DEPLOY / "container/build", "--base", BASE, "--deb", package, IMAGE],
        env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
        check=True,
        timeout=600,
    )
    yield IMAGE
    buildah("rmi", IMAGE)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("seccomp") / "seccomp.json"
    made.write_text(run([str(DEPLOY / "container/seccomp"), "/usr/share/containers/seccomp.json"]))
    return made


@pytest.fixture
def container(image: str, profile: Path) -> Iterator[str]:
    name = buildah("from", f"--security-opt=seccomp={profile}", image)
    yield name
    buildah("rm", name)


def command(
    container: str, *argv: str, add: tuple[str, ...] = (), volumes: tuple[str, ...] = ()
) -> list[str]:
    """`argv` in a container, as an engine runs it for an ordinary user with no capabilities but these."""
    return [
        *("buildah", "run", "--isolation=chroot", "--network=host", f"--user={UID}:{UID}"),
        *(f"--cap-drop=CAP_{name.upper()}" for name in DEFAULTS),
        *(f"--cap-add=CAP_{name.upper()}" for name in add),
        *(f"--volume={volume}" for volume in volumes),
        *(container, "--", *argv),
    ]


def configuration(site: Site) -> str:
    addresses = site.addresses.values()
    lines = (
        f"interfaces = {list(site.interfaces)}",
        f"vips = {[endpoint(family.vip, VIP_PORT) for family in addresses]}",
        f"relay_addresses = {[family.relay for family in addresses]}",
        'pin_path = "/pins"',
    )
    return "\n".join(lines)


def daemon_in(process: subprocess.Popen[bytes]) -> Path:
    """The folder in /proc of earshotd, which is some way below what has started it."""
    waiting = [process.pid]
    while waiting:
        number = waiting.pop()
        folder = Path(f"/proc/{number}")
        if (folder / "comm").read_text().startswith("earshotd"):
            return folder
        for thread in (folder / "task").iterdir():
            waiting += [int(each) for each in (thread / "children").read_text().split()]
    raise AssertionError("no earshotd")


def test_it_is_small(image: str) -> None:
    size, unit = buildah("images", "--format", "{{.Size}}", "--filter", f"reference={image}").split()
    assert (float(size) < LARGEST, unit) == (True, "MB"), size


LOAD = """
import ctypes, pathlib
for library in sorted(pathlib.Path("/usr/lib/earshot/lib").rglob("*.so")):
    ctypes.CDLL(str(library))
    print(library.name)
"""


def test_what_was_stripped_loads(container: str) -> None:
    argv = command(container, "/usr/lib/earshot/bin/python3", "-P", "-c", LOAD)
    assert len(run(argv, timeout=120).splitlines()) > 50


def test_a_call_by_a_relay_in_a_container(container: str) -> None:
    with Lab() as lab, ExitStack() as held:
        site = two_armed(lab)
        with site.relay.inside():
            run([str(DEPLOY / "systemd/prepare"), str(lab.pins), str(UID)])
        for name in ("run", "etc"):
            (lab.dir / name).mkdir()
        os.chown(lab.dir / "run", UID, UID)
        (lab.dir / "etc/earshotd.toml").write_text(configuration(site))
        volumes = (
            f"{lab.pins}:/pins",  # below /sys a chroot mounts nothing
            f"{lab.dir}/run:/run/earshot",
            f"{lab.dir}/etc:/etc/earshot:ro",
        )
        argv = command(container, "/usr/bin/earshotd-with-capabilities", add=NEEDED, volumes=volumes)
        process = start(lab, site.relay, *argv)
        daemon = daemon_in(process)
        text = (daemon / "status").read_text()
        status = dict(line.split(":\t", 1) for line in text.splitlines())
        assert status["Uid"].split() == [str(UID)] * 4
        wanted = 1 << 39 | 1 << 12 | 1 << 38
        assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm")} == {wanted}
        assert "libLLVM" not in (daemon / "maps").read_text()
        assert set(site.xdp_modes().values()) == {"native"}

        relay = held.enter_context(RelayClient(f"unix:{lab.dir}/run/earshotd.sock"))
        attachment = held.enter_context(relay.attach("transceiver"))
        made = held.enter_context(call(site, attachment, 4))
        made.bind(4)
        made.up(payload(RTP, 100))
        made.down(payload(RTP, 100))
        # As an engine stops it: the daemon goes, the call does not.
        os.kill(int(daemon.name), 15)
        wait_for(lambda: process.poll() is not None, "the container ends", 30)
        made.up(payload(RTP, 100))
        made.down(payload(RTP, 100))
