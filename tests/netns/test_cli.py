# SPDX-License-Identifier: Apache-2.0
"""`earshot` against maps that are pinned, with a daemon behind them and without."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from control import abi
from control.addresses import parse_endpoint, to_bytes
from control.datapath import Datapath
from tests.lab.calls import RTP, call, payload
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import BIN, endpoint, relay_target, start_relay
from tests.lab.topology import Site, two_armed
from tests.netns.command import earshot, earshot_here, load, site_with_program
from tests.netns.schema import assert_fits

pytestmark = [pytest.mark.root, pytest.mark.netns]

MANY = 5000  # flows: their list is larger than a pipe
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def enter_owner(datapath: Datapath, number: int, name: bytes, attached: int) -> None:
    owner = np.zeros(1, abi.OWNER)
    owner["name"], owner["attached"], owner["since"] = name, attached, int(time.monotonic())
    datapath.put_owner(number, owner)


def enter_session(datapath: Datapath, ufrag: bytes, number: int, owner: int, session_id: bytes) -> None:
    key, value = np.zeros(1, abi.UFRAG_KEY), np.zeros(1, abi.SESSION)
    key["ufrag"] = ufrag
    value["number"], value["owner"], value["id"], value["backend"] = number, owner, session_id, (1, 2)
    value["flags"], value["inner"], value["outer"] = abi.SessionFlag.HAS_PWD, 0x5EC12E75, 0x5EC12E75
    assert datapath.put_sessions(key, value) == 1


def enter_flow(datapath: Datapath, number: int, client: str, session: int, age: int = 0) -> int:
    """Returns the second of binding."""
    parsed = parse_endpoint(client)
    now = time.monotonic_ns()
    bound = now // 10**9 - age
    flow = np.zeros(1, abi.FLOW)
    flow["client_addr"], flow["client_port"] = np.void(to_bytes(parsed.address)), parsed.port
    flow["vip"], flow["backend"] = parsed.address.version == 6, 1 + (parsed.address.version == 6)
    flow["session"], flow["state"] = session, abi.FlowState.LIVE | bound << abi.FLOW_STATE_BITS
    flow["last_seen"] = (now >> abi.FLOW_TICK_SHIFT) % (1 << 32)
    flow["up_packets"], flow["up_bytes"], flow["down_packets"], flow["down_bytes"] = 3000, 600_000, 2, 99
    datapath.flows[number] = flow[0]
    return bound


class Entered(NamedTuple):
    """A site in which no daemon runs, and the second of binding of the flow of call-1."""

    site: Site
    bound: int


@pytest.fixture(scope="module")
def entered() -> Iterator[Entered]:
    """Two transceivers; call-1 (two ufrags, one flow) and call-2 of voice-1, another call-2 of voice-2."""
    with Lab() as lab:
        site = two_armed(lab)
        with closing(load(site)) as loaded:
            datapath = loaded.datapath
            for number, text in ((1, "10.20.0.10:5000"), (2, "[fd00:20::10]:5000")):
                backend = parse_endpoint(text)
                datapath.backends["addr"][number] = np.void(to_bytes(backend.address))
                datapath.backends["port"][number] = backend.port
            enter_owner(datapath, 0, b"voice-1", 1)
            enter_owner(datapath, 1, b"voice-2", 0)
            enter_session(datapath, b"aaaa", 1, 0, b"call-1")
            enter_session(datapath, b"bbbb", 1, 0, b"call-1")
            enter_session(datapath, b"cccc", 2, 0, b"call-2")
            enter_session(datapath, b"dddd", 3, 1, b"call-2")
            bound = enter_flow(datapath, 7, "198.51.100.7:40000", 1)
            second = datapath.layout.number(1, datapath.layout.port_min + 9)
            enter_flow(datapath, second, "[2001:db8:c::7]:41000", 3, age=1)
        yield Entered(site, bound)


def test_flow_list(entered: Entered) -> None:
    newer = earshot(entered.site, "flow", "list", "-o", "json").json[1]
    assert 0 <= newer.pop("age_seconds") < 60
    assert 0 <= newer.pop("idle_milliseconds") < 60_000
    assert newer == {
        "flow_id": str(entered.bound << 32 | 7),
        "state": "live",
        "transceiver": "voice-1",
        "session_id": "call-1",
        "client": "198.51.100.7:40000",
        "vip": "203.0.113.1:3478",
        "relay": "10.20.0.1:10007",
        "backend": "10.20.0.10:5000",
        "to_transceiver_packets": 3000,
        "to_transceiver_bytes": 600_000,
        "to_client_packets": 2,
        "to_client_bytes": 99,
    }
    titles, older, _ = earshot(entered.site, "flow", "list").table
    assert " ".join(titles) == (
        "FLOW TRANSCEIVER SESSION CLIENT VIP RELAY BACKEND "
        "UP-PKTS UP-BYTES DOWN-PKTS DOWN-BYTES AGE IDLE STATE"
    )
    assert older[1:7] == [
        "voice-2",
        "call-2",
        "[2001:db8:c::7]:41000",
        "[2001:db8:f::1]:3478",
        "[fd00:20::1]:10009",
        "[fd00:20::10]:5000",
    ]
    assert older[7:13] == ["3000", "586", "KiB", "2", "99", "B"]
    assert older[-1] == "live"


@pytest.mark.parametrize(
    ("filters", "sessions"),
    [
        (["--session", "aaaa"], ["call-1"]),
        (["--session", "call-1"], ["call-1"]),
        (["--session", "cccc"], []),
        (["--session", "call-2"], ["call-2"]),
        (["--transceiver", "voice-2"], ["call-2"]),
        (["--transceiver", "nobody"], []),
        (["--client", "198.51.100.7"], ["call-1"]),
        (["--client", "[2001:db8:c::7]:41000"], ["call-2"]),
        (["--client", "[2001:db8:c::7]:41001"], []),
        (["--client", "198.51.100.7", "--transceiver", "voice-2"], []),
    ],
)
def test_flow_filters(entered: Entered, filters: list[str], sessions: list[str]) -> None:
    rows = earshot_here(entered.site, "flow", "list", *filters, "-o", "json").json
    assert [row["session_id"] for row in rows] == sessions


def test_flow_show(entered: Entered) -> None:
    listed = earshot_here(entered.site, "flow", "list", "-o", "json").json[1]
    shown = earshot_here(entered.site, "flow", "show", listed["flow_id"], "-o", "json").json
    assert_fits("flow show", shown)
    assert {key: shown[key] for key in listed if key not in ("age_seconds", "idle_milliseconds")} == {
        key: value for key, value in listed.items() if key not in ("age_seconds", "idle_milliseconds")
    }
    assert ["client", "198.51.100.7:40000"] in earshot_here(
        entered.site, "flow", "show", listed["flow_id"]
    ).table
    gone = earshot_here(entered.site, "flow", "show", str(int(listed["flow_id"]) + 1))
    assert (gone.status, gone.out) == (1, "")
    assert gone.err.startswith("Error: there is no flow ")


def test_session_list(entered: Entered) -> None:
    said = earshot_here(entered.site, "session", "list", "-o", "json")
    assert said.json[0] == {
        "session_id": "call-1",
        "transceiver": "voice-1",
        "ufrags": ["aaaa", "bbbb"],
        "endpoints": ["10.20.0.10:5000", "[fd00:20::10]:5000"],
        "ttl_seconds": None,
        "flows": 1,
        "has_pwd": True,
    }
    assert [row["session_id"] for row in said.json] == ["call-1", "call-2", "call-2"]
    assert [row["flows"] for row in said.json] == [1, 0, 1]
    titles, *rows = earshot_here(entered.site, "session", "list", "--transceiver", "voice-2").table
    assert titles == ["SESSION", "TRANSCEIVER", "UFRAGS", "ENDPOINTS", "FLOWS", "TTL", "PWD"]
    assert rows == [
        ["call-2", "voice-2", "dddd", "10.20.0.10:5000,[fd00:20::10]:5000", "1", "-", "known"],
    ]


def test_session_show(entered: Entered) -> None:
    by_id = earshot_here(entered.site, "session", "show", "call-1", "-o", "json").json
    assert [flow["client"] for flow in by_id["bound_flows"]] == ["198.51.100.7:40000"]
    assert (by_id["session_id"], by_id["flows"]) == ("call-1", 1)
    table = earshot_here(entered.site, "session", "show", "bbbb").table
    assert ["UFRAGS", "aaaa,bbbb"] in table
    assert table[-1][3] == "198.51.100.7:40000"
    ambiguous = earshot_here(entered.site, "session", "show", "call-2")
    assert ambiguous.status == 1
    assert "2 sessions match" in ambiguous.err
    narrowed = earshot_here(
        entered.site, "session", "show", "call-2", "--transceiver", "voice-1", "-o", "json"
    )
    assert narrowed.json["ufrags"] == ["cccc"]
    assert earshot_here(entered.site, "session", "show", "zzzz").status == 1


def test_transceiver_list(entered: Entered) -> None:
    rows = earshot_here(entered.site, "transceiver", "list", "-o", "json").json
    assert all(0 <= row.pop("since_seconds") < 60 for row in rows)
    assert rows == [
        {"transceiver": "voice-1", "attached": True, "sessions": 2, "flows": 1},
        {"transceiver": "voice-2", "attached": False, "sessions": 1, "flows": 1},
    ]
    _, first, second = earshot_here(entered.site, "transceiver", "list").table
    assert first[:2] == ["voice-1", "attached"]
    assert second[:2] == ["voice-2", "detached"]


def test_vip_list(entered: Entered) -> None:
    assert earshot_here(entered.site, "vip", "list", "-o", "json").json == [
        {"vip": "203.0.113.1:3478", "flows": 1},
        {"vip": "[2001:db8:f::1]:3478", "flows": 1},
    ]
    assert earshot_here(entered.site, "vip", "list").table[1] == ["203.0.113.1:3478", "1"]


def test_stats(entered: Entered) -> None:
    report = earshot_here(entered.site, "stats", "-o", "json").json
    assert report["flows"] == {"live": 2, "superseded": 0, "dead": 0, "capacity": 20_000}
    assert report["sessions"] == 3
    assert report["ufrags"] == {"used": 4, "capacity": 100}
    assert report["transceivers"] == {"attached": 1, "detached": 1}
    assert list(report["reasons"]) == [reason.name.lower() for reason in abi.Reason]
    assert report["reasons"]["drop_ttl"] == {"packets": 0, "bytes": 0}
    everything = earshot_here(entered.site, "stats", "--all").table
    assert ["Ufrags", "4", "of", "100"] in everything
    assert ["drop_ttl", "0", "0", "B"] in everything
    assert not any("drop_ttl" in line for line in earshot_here(entered.site, "stats").table)


def test_datapath_status(entered: Entered) -> None:
    site = entered.site
    report = earshot_here(site, "datapath", "status", "-o", "json").json
    assert report["pin_path"] == str(site.lab.pins)
    assert [(link["interface"], link["mode"]) for link in report["links"]] == [
        (name, "native") for name in site.interfaces
    ]
    assert len({link["program_id"] for link in report["links"]}) == 1
    maps = {row["map"]: row for row in report["maps"]}
    assert maps["sessions_v1"]["max_entries"] == 100
    assert maps["sessions_v1"]["type"] == "hash"
    assert maps["flows_v2"]["memory_bytes"] >= 64 * 20_000
    assert report["memory_bytes"] == sum(row["memory_bytes"] for row in report["maps"])
    table = earshot_here(site, "datapath", "status").table
    assert [line[2] for line in table if line and line[0] in site.interfaces] == ["native", "native"]


def test_a_link_of_another_namespace_is_not_mistaken_for_one_of_this(entered: Entered) -> None:
    site = entered.site
    elsewhere = subprocess.run(
        [str(BIN / "earshot"), "datapath", "status", "-o", "json", "--pin-path", str(site.lab.pins)],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert {link["mode"] for link in json.loads(elsewhere.stdout)["links"]} == {None}


def test_nobody_sees_secrets(entered: Entered) -> None:
    secret = str(0x5EC12E75)
    for argv in (["session", "list"], ["session", "show", "aaaa"], ["flow", "list"], ["stats"]):
        assert secret not in earshot_here(entered.site, *argv, "-o", "json").out


def test_without_privileges(entered: Entered) -> None:
    refused = earshot(entered.site, "flow", "list", wrapper=NOBODY)
    assert (refused.status, refused.out) == (3, "")
    assert "CAP_BPF" in refused.err
    assert refused.err.count("\n") == 1
    checked = earshot(entered.site, "check", "-o", "json", wrapper=NOBODY)
    assert checked.status == 1
    failed = {row["name"] for row in json.loads(checked.out)["findings"] if row["status"] == "failed"}
    assert failed >= {"capabilities", "program"}


def test_a_reader_that_leaves_early(entered: Entered) -> None:
    site = entered.site
    with closing(load(site)) as loaded:
        template = loaded.datapath.flows[7].copy()
        loaded.datapath.flows[100 : 100 + MANY] = template
    done = subprocess.run(
        site.relay.command("sh", "-c", f"'{BIN}/earshot' flow list --pin-path '{site.lab.pins}' | head -n 3"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    with closing(load(site)) as loaded:
        loaded.datapath.flows[100 : 100 + MANY] = np.zeros(1, abi.FLOW)[0]
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""


def test_with_a_daemon(family: int) -> None:
    with Lab() as lab:
        site = two_armed(lab)
        start_relay(site)
        with (
            RelayClient(relay_target(site)) as relay,
            relay.attach("voice") as attachment,
            call(site, attachment, family) as made,
        ):
            address, port = made.bind()
            for size in (100, 200):
                made.up(payload(RTP, size))
            made.down(payload(RTP, 300))
            [row] = earshot_here(site, "flow", "list", "--session", made.ufrag, "-o", "json").json
            [flow] = relay.flows()
            assert row["flow_id"] == str(flow.flow_id)
            assert row["client"] == endpoint(flow.client.address, flow.client.port)
            assert row["relay"] == endpoint(address, port)
            assert (row["to_transceiver_packets"], row["to_client_packets"]) == (3, 1)
            assert (row["transceiver"], row["session_id"]) == ("voice", made.session_id)
            report = earshot_here(site, "stats", "-o", "json").json
            assert report["reasons"]["forward_bound"]["packets"] == 1
            assert report["reasons"]["forward_to_transceiver"]["packets"] == 2
            assert_knows_itself_and_its_own(site, "voice")
        refused = earshot(site, "datapath", "remove", "--yes")
        assert (refused.status, refused.out) == (1, "")
        assert "is in use" in refused.err
        assert set(site.xdp_modes().values()) == {"native"}


@pytest.fixture
def loaded_site() -> Iterator[Site]:
    with site_with_program() as site:
        yield site


def assert_knows_itself_and_its_own(site: Site, transceiver: str) -> None:
    """What a relay without a directory has to say of its fleet."""
    socket = f"--socket={relay_target(site).removeprefix('unix:')}"
    known = earshot(site, "fleet", "status", "-o", "json", socket).json
    assert_fits("fleet status", known)
    assert known["directory"] is None
    [this] = known["relays"]
    assert (this["this"], this["state"], this["keys"], this["daemon"]) == (True, "serving", [], None)
    assert (this["transceivers"], this["sessions"]) == (1, 1)
    [there] = known["transceivers"]
    assert (there["transceiver"], there["relay"], there["state"], there["sessions"]) == (
        transceiver,
        this["relay"],
        "attached",
        1,
    )
    table = earshot(site, "fleet", "status", socket).table
    assert table[0] == ["Directory", "-"]
    assert [transceiver, "-", this["relay"], "attached", "1"] in table


def test_remove_asks_first(loaded_site: Site) -> None:
    kept = earshot(loaded_site, "datapath", "remove", stdin="n\n")
    assert (kept.status, kept.out) == (1, "")
    assert "Detach from 2 links and end 0 live flows? [y/N]" in kept.err
    assert set(loaded_site.xdp_modes().values()) == {"native"}


@pytest.mark.parametrize(("argv", "stdin"), [(["--yes"], ""), ([], "y\n")], ids=["told", "asked"])
def test_remove(loaded_site: Site, argv: list[str], stdin: str) -> None:
    done = earshot(loaded_site, "datapath", "remove", *argv, stdin=stdin)
    assert (done.status, done.out) == (0, "")
    assert not loaded_site.lab.pins.exists()
    assert set(loaded_site.xdp_modes().values()) == {"none"}
    again = earshot(loaded_site, "datapath", "remove", "--yes")
    assert again.status == 3
    assert again.err.startswith("Error: nothing is pinned in ")


def test_remove_leaves_alone_what_is_not_ours(loaded_site: Site) -> None:
    (loaded_site.lab.pins / "other").mkdir()
    refused = earshot(loaded_site, "datapath", "remove", "--yes")
    (loaded_site.lab.pins / "other").rmdir()
    assert refused.status == 1
    assert "it holds other" in refused.err
    assert set(loaded_site.xdp_modes().values()) == {"native"}


def test_a_full_disk(entered: Entered) -> None:
    said = earshot(entered.site, "stats", wrapper=("sh", "-c", 'exec "$@" > /dev/full', "sh"))
    assert said.status == 1
    assert said.err.startswith("Error: ")
    assert said.err.count("\n") == 1


def test_the_manual_has_every_key(entered: Entered) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    site = entered.site
    flow_id = earshot_here(site, "flow", "list", "-o", "json").json[1]["flow_id"]
    reports = []
    for command, *arguments in (
        ["flow list"],
        ["flow show", flow_id],
        ["session list"],
        ["session show", "aaaa"],
        ["transceiver list"],
        ["vip list"],
        ["datapath status"],
        ["check", "--no-attach"],
        ["top", "--once", "--interval", "0.2"],
    ):
        reports.append(earshot_here(site, *command.split(), *arguments, "-o", "json").json)
        assert_fits(command, reports[-1])
    usage = earshot_here(site, "stats", "-o", "json").json
    assert_fits("stats", usage)
    del usage["reasons"]  # their names are those of bpf/README.md
    assert not {key for key in keys([*reports, usage]) if f"`{key}`" not in manual}


def keys(value: object) -> Iterator[str]:
    """All keys of a JSON document."""
    if isinstance(value, dict):
        yield from value
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys(member)
