# SPDX-License-Identifier: Apache-2.0
"""`earshot check` on hosts that are fit, and on some that are not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.netns import Lab
from tests.lab.services import endpoint, start_relay
from tests.lab.topology import VIP_PORT, Site, two_armed
from tests.netns.command import earshot, site_with_program

FILE_ALONE = ("env", "--unset=EARSHOT_PIN_PATH")  # which would win over the file

pytestmark = [pytest.mark.root, pytest.mark.netns]


def write_config(site: Site, **changed: object) -> str:
    settings = {
        "interfaces": list(site.interfaces),
        "vips": [endpoint(family.vip, VIP_PORT) for family in site.addresses.values()],
        "relay_addresses": [family.relay for family in site.addresses.values()],
        "pin_path": str(site.lab.pins),
        **changed,
    }
    path = site.lab.dir / "earshotd.toml"
    # A JSON string or list of strings is one of TOML too.
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    return str(path)


Checked = dict[str, tuple[str, str]]


def check(site: Site, status: int, **changed: object) -> Checked:
    said = earshot(site, "check", "--config", write_config(site, **changed), "-o", "json", wrapper=FILE_ALONE)
    assert said.status == status, said
    report = json.loads(said.out)
    assert report["fit"] == (status == 0)
    return {row["name"]: (row["status"], row["found"]) for row in report["findings"]}


@pytest.fixture(scope="module")
def bare_site() -> Iterator[Site]:
    """A site in which Earshot has never run."""
    with Lab() as lab:
        yield two_armed(lab)


def test_check_of_a_fit_host(bare_site: Site) -> None:
    findings = check(bare_site, 0)
    client, transceiver = bare_site.interfaces
    assert findings[f"interface {client}"] == ("ok", "up, driver veth, MTU 1500")
    assert findings[f"xdp {transceiver}"] == ("ok", "a program can be attached in native mode")
    assert findings["mtu"] == ("ok", "1500 on all links")
    assert findings["relay-ports"][0] == "ok"
    for name in (
        "kernel",
        "capabilities",
        "bpffs",
        "libbpf",
        "program",
        "jit",
        "lo-forwarding",
        "relay-ports",
    ):
        assert findings[name][0] == "ok", name
    for family in bare_site.addresses.values():
        assert findings[f"vip {family.vip}"][0] == "ok"
        assert findings[f"relay address {family.relay}"][0] == "ok"
    assert set(bare_site.xdp_modes().values()) == {"none"}
    assert not bare_site.lab.pins.exists()


def test_check_in_words(bare_site: Site) -> None:
    said = earshot(bare_site, "check", "--config", write_config(bare_site, interfaces=["eth9"]))
    assert said.status == 1
    lines = said.out.splitlines()
    at = lines.index("failed  interface eth9: does not exist")
    assert lines[at + 1].startswith("        -> set interfaces to some of: ")
    assert said.err.strip().endswith(" 1 failed")


def test_check_does_not_attach_when_told_so(bare_site: Site) -> None:
    said = earshot(bare_site, "check", "--no-attach", "--config", write_config(bare_site))
    assert said.out.count("whether native mode works was not tried") == 2


def test_check_of_addresses_that_are_not_there(bare_site: Site) -> None:
    findings = check(bare_site, 0, vips=["192.0.2.99:3478"], relay_addresses=["192.0.2.98"])
    assert findings["vip 192.0.2.99"][0] == "warning"
    assert findings["relay address 192.0.2.98"][0] == "warning"
    assert "relay-ports" not in findings


def test_check_of_ports_that_sockets_use_too(bare_site: Site) -> None:
    findings = check(bare_site, 0, relay_ports="30000-40000")
    assert findings["relay-ports"][0] == "warning"
    assert "32768-40000" in findings["relay-ports"][1]


@pytest.fixture
def down(bare_site: Site) -> Iterator[str]:
    name = bare_site.interfaces[0]
    bare_site.relay.ip(f"link set dev {name} down mtu 1400")
    yield name
    bare_site.relay.ip(f"link set dev {name} mtu 1500 up")


def test_check_of_a_link_that_is_down_and_of_mtus(bare_site: Site, down: str) -> None:
    findings = check(bare_site, 1)
    assert findings[f"interface {down}"] == ("failed", "is down")
    assert findings["mtu"][0] == "failed"


def test_check_of_a_veth_whose_other_end_is_here(bare_site: Site) -> None:
    bare_site.relay.ip("link add name near9 type veth peer name far9", "link set dev near9 up")
    findings = check(bare_site, 0, interfaces=["near9"])
    bare_site.relay.ip("link delete near9")
    assert findings["veth near9"][0] == "warning"
    assert findings["veth near9"][1].startswith("its other end, far9, has no native XDP program")


def test_check_of_what_is_no_ethernet_link(bare_site: Site) -> None:
    findings = check(bare_site, 1, interfaces=["lo"])
    assert findings["interface lo"] == ("failed", "is not an Ethernet link")
    assert "xdp lo" not in findings


@pytest.fixture
def loaded_site() -> Iterator[Site]:
    with site_with_program() as site:
        yield site


def test_check_beside_a_program(loaded_site: Site) -> None:
    attached = check(loaded_site, 0)
    for name in loaded_site.interfaces:
        assert attached[f"xdp {name}"][0] == "ok"
        assert attached[f"xdp {name}"][1].startswith("earshotd's XDP program (id ")
    foreign = check(loaded_site, 1, pin_path="/sys/fs/bpf/elsewhere")
    for name in loaded_site.interfaces:
        assert foreign[f"xdp {name}"][0] == "failed"
        assert foreign[f"xdp {name}"][1].startswith("another XDP program (id ")
    assert set(loaded_site.xdp_modes().values()) == {"native"}


def test_a_start_says_what_a_check_would_have_said(bare_site: Site) -> None:
    start_relay(bare_site, "--relay-ports=30000-40000")
    (line,) = (
        line for line in bare_site.lab.log("earshotd").read_text().splitlines() if "event=host_unfit" in line
    )
    assert "level=warning" in line
    assert "what=relay-ports" in line
    assert "net.ipv4.ip_local_reserved_ports" in line
