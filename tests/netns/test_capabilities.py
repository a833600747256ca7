# SPDX-License-Identifier: Apache-2.0
"""earshotd as an ordinary user with three capabilities, each of which it cannot do without.

docs/configuration.md says what each is for. What root has to do beforehand is in `given_site`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.calls import RTP, call, payload
from tests.lab.host import LabError
from tests.lab.netns import Lab, stop
from tests.lab.relay_client import RelayClient
from tests.lab.services import BIN, endpoint, start
from tests.lab.topology import VIP_PORT, Site, two_armed

pytestmark = [pytest.mark.root, pytest.mark.netns]

UID = 64124
NEEDED = ("bpf", "net_admin", "perfmon")


@pytest.fixture
def given_site() -> Iterator[Site]:
    """A site with a pin folder, on a bpffs that is mounted, and a socket folder that are the user's."""
    with Lab() as lab:
        site = two_armed(lab)
        for folder in (lab.pins, lab.dir / "run"):
            folder.mkdir(mode=0o700)
            os.chown(folder, UID, UID)
        yield site


def confined(*capabilities: str) -> list[str]:
    """What gives a command these capabilities and no more, as systemd's AmbientCapabilities= does."""
    named = ",".join(("-all", *(f"+{name}" for name in capabilities)))
    sets = [f"--{kind}-caps={named}" for kind in ("inh", "ambient")]
    user = [f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *user, *sets, f"--bounding-set={named}"]


def start_confined(site: Site, *capabilities: str) -> subprocess.Popen[bytes]:
    addresses = site.addresses.values()
    return start(
        site.lab,
        site.relay,
        *confined(*capabilities),
        str(BIN / "earshotd"),
        "--name=relay",
        *(f"--interface={interface}" for interface in site.interfaces),
        *(f"--vip={endpoint(family.vip, VIP_PORT)}" for family in addresses),
        *(f"--relay-address={family.relay}" for family in addresses),
        f"--grpc-socket={site.lab.dir}/run/earshotd.sock",
        f"--pin-path={site.lab.pins}",
    )


def test_calls_with_three_capabilities(given_site: Site) -> None:
    site = given_site
    target = f"unix:{site.lab.dir}/run/earshotd.sock"
    daemon = start_confined(site, *NEEDED)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    )
    assert status["Uid"].split() == [str(UID)] * 4
    assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd")} == {1 << 39 | 1 << 12 | 1 << 38}
    with site.relay.inside():
        for family in ("ipv4", "ipv6"):
            assert Path(f"/proc/sys/net/{family}/conf/lo/forwarding").read_text() == "1\n"
    with RelayClient(target) as relay, relay.attach("transceiver") as attachment:
        for family in (4, 6):
            with call(site, attachment, family) as made:
                made.bind(4)
                made.up(payload(RTP, 100))
                made.down(payload(RTP, 100))
    # Another daemon takes over, and puts its program in the place of the one that runs.
    stop(daemon)
    daemon = start_confined(site, *NEEDED)
    with (
        RelayClient(target) as relay,
        relay.attach("transceiver") as attachment,
        call(site, attachment, 4) as made,
    ):
        made.bind(4)
        stop(daemon)
        start_confined(site, *NEEDED)
        made.up(payload(RTP, 100))
        made.down(payload(RTP, 100))
    # Reading takes none of them, and no more than the pins being the user's own.
    for command in (("stats", "-o", "json"), ("session", "list"), ("datapath", "status")):
        cli = [str(BIN / "earshot"), *command, "--pin-path", str(site.lab.pins)]
        assert site.relay.run(*confined(), *cli)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("bpf", "the kernel refused the BPF object"),
        ("net_admin", "the kernel refused the BPF object"),
        ("perfmon", "pointer arithmetic"),
    ],
)
def test_without_one_of_them_it_does_not_start(given_site: Site, missing: str, says: str) -> None:
    with pytest.raises(LabError, match="ended with 1") as caught:
        start_confined(given_site, *(name for name in NEEDED if name != missing))
    assert says in str(caught.value)
    assert "needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON" in str(caught.value)
    assert not list(given_site.lab.pins.iterdir())


def test_pins_of_another_user_are_not_read(given_site: Site) -> None:
    start_confined(given_site, *NEEDED)
    cli = [str(BIN / "earshot"), "stats", "--pin-path", str(given_site.lab.pins)]
    stranger = ["setpriv", f"--reuid={UID + 1}", f"--regid={UID + 1}", "--clear-groups"]
    with pytest.raises(LabError, match="exit 3"):
        given_site.relay.run(*stranger, *cli)
