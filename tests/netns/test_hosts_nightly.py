# SPDX-License-Identifier: Apache-2.0
"""More of test_hosts.py and test_bad_input.py, for a night."""

from __future__ import annotations

import pytest

from tests.lab.netns import stop
from tests.lab.services import relay_command, start, start_relay
from tests.lab.topology import Site
from tests.netns import test_bad_input
from tests.netns.test_bad_input import check, is_refused_beside_another
from tests.netns.test_hosts import calls_go, checked, goes_by_generic, moved_to

pytestmark = [pytest.mark.root, pytest.mark.netns]

# In a mount namespace of its own, so that nobody else misses it.
WITHOUT_BPFFS = ("unshare", "-m", "sh", "-ec", 'umount -l /sys/fs/bpf; exec "$@"', "sh")


site = test_bad_input.site  # the fixture


def test_a_macvlan(site: Site) -> None:
    goes_by_generic(on_a_macvlan(site))


def on_a_macvlan(site: Site) -> Site:
    # Or the link below it answers for its address, with a MAC of its own.
    site.relay.sysctl(f"net.ipv4.conf.{site.client.name}.arp_ignore", 1)
    site.relay.ip(f"link add name mac0 link {site.client.name} type macvlan mode bridge")
    return moved_to(site, "mac0")


def test_generic_on_links_that_could_do_better(site: Site) -> None:
    daemon = start_relay(site, "--xdp-mode=generic")
    assert set(site.xdp_modes().values()) == {"generic"}
    calls_go(site)
    stop(daemon)
    start_relay(site, "--xdp-mode=native")
    assert set(site.xdp_modes().values()) == {"generic"}
    assert "event=xdp_mode_stays" in site.lab.log("earshotd").read_text()
    assert "though xdp_mode is native" in checked(site, xdp_mode="native")["xdp client"].found


def test_another_program_in_generic_mode(site: Site) -> None:
    is_refused_beside_another(site, "xdpgeneric")


def test_relay_ports_that_the_host_gives_to_its_sockets(site: Site) -> None:
    """Warned of; and what the cure says is one."""
    ports = "30000-40000"
    site.relay.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=30000 40010")
    daemon = start_relay(site, f"--relay-ports={ports}")
    assert "event=host_unfit what=relay-ports" in site.lab.log("earshotd").read_text()
    stop(daemon)
    site.relay.run("sysctl", "-qw", f"net.ipv4.ip_local_reserved_ports={ports}")
    start_relay(site, f"--relay-ports={ports}")
    assert site.lab.log("earshotd").read_text().count("event=host_unfit") == 1


def test_no_bpf_file_system(site: Site) -> None:
    finding = check(site, WITHOUT_BPFFS)["bpffs"]
    assert finding.status == "warning"
    assert "earshotd mounts it at its start" in finding.cure
    start(site.lab, site.relay, *WITHOUT_BPFFS, *relay_command(site), name="earshotd")
    calls_go(site)
