# SPDX-License-Identifier: Apache-2.0
"""What an operator does to a relay with calls: reload, drain, upgrade."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest
from earshot.relay.v1 import relay_pb2 as pb
from grpc_health.v1 import health_pb2

from control import pinned
from control.cli.daemon_client import connected
from control.requests import Code
from tests.lab.calls import RTP, binding_request, call, payload, wait_for
from tests.lab.nightly import NIGHTLY
from tests.lab.relay_client import RelayClient
from tests.lab.services import BIN, endpoint, relay_target
from tests.lab.topology import IPV4, VIP_PORT
from tests.netns.command import Said
from tests.netns.raw_stream import remove
from tests.reliability.stage import Record, Stage, assert_whole, set_up

pytestmark = [pytest.mark.root, pytest.mark.netns]

UPGRADES = 50 if NIGHTLY else 10


@pytest.fixture(scope="module")
def module_stage() -> Iterator[Stage]:
    """Its daemon has its settings from a file: those that flags say could not be reloaded."""
    with set_up() as made:
        made.configure()
        made.end()
        made.start()
        yield made


@pytest.fixture
def stage(module_stage: Stage) -> Stage:
    module_stage.ensure()
    return module_stage


def program_ids(stage: Stage) -> tuple[int, ...]:
    """The program of each link."""
    return tuple(link.program_id for link in pinned.attached(stage.lab.pins))


def reload(stage: Stage, **changes: object) -> Said:
    stage.configure(**changes)
    return stage.earshot("datapath", "reload")


def test_a_vip_comes_and_goes(stage: Stage, record_property: Record) -> None:
    """A second port of the first address: calls by it work, and end with it; the others feel nothing."""
    usual = [endpoint(family.vip, VIP_PORT) for family in stage.site.addresses.values()]
    more = endpoint(IPV4.vip, VIP_PORT + 1)
    with stage.attached() as attachment, stage.client() as relay:
        with stage.flowing(record_property) as phase:
            said = reload(stage, vips=[*usual, more])
            assert (said.status, said.err) == (0, "Changed: vips.\n")
            with call(stage.site, attachment, 4) as made:
                made.vip = (IPV4.vip, VIP_PORT + 1)
                made.bind(4)
                made.up(payload(RTP, 100))
                made.down(payload(RTP, 100))
                assert reload(stage, vips=usual).status == 0
                assert relay.flows(made.session_id) == []
                before = relay.counters()["pass_not_ours"]
                made.client.sendto(binding_request(made.ufrag), made.vip)
                wait_for(lambda: relay.counters()["pass_not_ours"] > before, "it is not ours any more")
            stage.traffic.wait_for_rounds(5)
        assert_whole(phase)
        ended = [one.flow_ended for one in attachment.seen_events() if one.HasField("flow_ended")]
        assert [one.reason for one in ended] == [pb.FLOW_END_REASON_VIP_REMOVED]


def test_limits_change(stage: Stage, record_property: Record) -> None:
    """Those of the registry, of callers, of ageing, and of the budgets that the program has built in."""
    with stage.attached() as attachment, stage.flowing(record_property) as phase:
        stage.traffic.wait_for_rounds(5)
        changes = {
            "max_sessions_per_transceiver": len(stage.crowd.members),
            "max_sessions": 1000,
            "max_streams": 100,
            "max_streams_per_identity": 50,
            "flow_idle_seconds": 30,
            "grace_seconds": 20,
            "source_requests_per_second": 5,
            "source_exempt": ["192.0.2.0/24"],
            "bindings_per_second": 1000,
            "flows_per_session": 7,
            "log_level": "debug",
            "name": "renamed",
        }
        said = reload(stage, **changes)
        assert (said.status, set(said.err.removeprefix("Changed: ")[:-2].split(", "))) == (0, set(changes))
        refused = attachment.add_session(stage.crowd.another().session)
        assert refused.code == Code.RESOURCE_EXHAUSTED
        with stage.client() as relay:
            with relay.attach("another") as other:
                assert (other.welcome.relay, other.welcome.grace_seconds) == ("renamed", 20)
            before = relay.counters()["drop_source_budget"]
            with stage.site.client.socket(2) as client:
                for _ in range(50):
                    client.sendto(binding_request("nobody00"), (IPV4.vip, VIP_PORT))
            wait_for(lambda: relay.counters()["drop_source_budget"] > before + 20, "the new budget holds")
        stage.configure()
        before = stage.log().count("event=reloaded")
        stage.daemon.send_signal(signal.SIGHUP)
        wait_for(lambda: stage.log().count("event=reloaded") > before, "SIGHUP does the same")
        assert attachment.add_session(stage.crowd.another().session).code == 0
        stage.traffic.wait_for_rounds(5)
    assert_whole(phase)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"relay_ports": "20000-20999"}, "relay_ports"),
        ({"max_backends": 100}, "max_backends"),
        ({"grace_seconds": -1, "name": "x"}, "grace_seconds"),
        ({"interfaces": ["client", "transceiver", "nowhere"]}, "interfaces[2]"),
        ({"vips": ["203.0.113.1:10001"], "flow_idle_seconds": 5}, "vips"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_change_is_refused_whole(
    stage: Stage, changes: dict[str, object], field: str, record_property: Record
) -> None:
    with stage.attached(), stage.flowing(record_property) as phase:
        said = reload(stage, **changes)
        assert said.status == 1
        assert said.err.startswith(f"Error: {field}: "), said.err
        stage.daemon.send_signal(signal.SIGHUP)
        wait_for(lambda: f"event=reload_refused field={field} " in stage.log(), "the log says so, too")
        stage.configure()
        assert stage.earshot("datapath", "reload").err == "Changed: nothing.\n"
    assert_whole(phase)


def test_an_interface_comes_and_goes(stage: Stage, record_property: Record) -> None:
    site = stage.site
    extra = stage.lab.host("extra")
    stage.lab.link(extra, site.relay, ["198.51.103.10/24"], ["198.51.103.1/24"])
    extra.ip(f"route add {IPV4.vip} via 198.51.103.1")
    with stage.attached() as attachment, stage.flowing(record_property) as phase:
        assert reload(stage, interfaces=[*site.interfaces, "extra"]).status == 0
        with extra.socket(2) as client, call(site, attachment, 4) as made:
            made.client.close()
            made.client = client
            made.bind(4)
            made.down(payload(RTP, 100))
        assert reload(stage).status == 0
        modes = site.relay.run("ip", "link", "show", "dev", "extra")
        assert "xdp" not in modes
    assert_whole(phase)


def health(stage: Stage) -> int:
    with RelayClient(relay_target(stage.site)) as client:
        return client.health()


def test_drain(stage: Stage, record_property: Record) -> None:
    serving = health_pb2.HealthCheckResponse
    new = stage.crowd.another()
    with stage.attached() as attachment, stage.flowing(record_property) as phase:
        assert health(stage) == serving.SERVING
        said = stage.earshot("drain", "--deadline", "0")
        calls = len(stage.crowd.members)
        assert said.status == 1
        assert f"draining, with {calls} sessions and {calls} flows left" in said.err
        assert health(stage) == serving.NOT_SERVING
        refused = attachment.add_session(new.session)
        assert (refused.code, refused.message) == (
            Code.UNAVAILABLE,
            "the relay is draining: it takes no new sessions",
        )
        assert attachment.told_draining is True, "before it was refused"
        # What is there may be replaced, and comes back by a snapshot.
        assert attachment.add_session(stage.crowd.members[0].session).code == 0
        stage.end(signal.SIGKILL)
        stage.start()
        assert health(stage) == serving.NOT_SERVING
        with stage.attached() as attachment:
            assert attachment.welcome.draining
            assert attachment.add_session(new.session).code == Code.UNAVAILABLE
            assert stage.earshot("undrain").status == 0
            assert health(stage) == serving.SERVING
            assert attachment.add_session(new.session).code == 0
            assert attachment.told_draining is False
            assert attachment.remove(new.session.session_id).code == 0
        stage.traffic.wait_for_rounds(5)
    assert_whole(phase)


def test_drain_ends_when_the_relay_is_empty(stage: Stage) -> None:
    """Who waits for it does not mind that the daemon is restarted meanwhile."""
    with stage.attached():
        waiting = subprocess.Popen(
            stage.site.relay.command(
                str(BIN / "earshot"), "drain", f"--socket={stage.lab.dir}/earshotd.sock", "--deadline=60"
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: health(stage) == health_pb2.HealthCheckResponse.NOT_SERVING, "it drains", 20)
        stage.end(signal.SIGKILL)
    stage.start()
    with stage.attached() as attachment:
        assert waiting.poll() is None
        attachment.batch(*(remove(member.session.session_id) for member in stage.crowd.members))
        _, said = waiting.communicate(timeout=30)
        assert (waiting.returncode, said.splitlines()[-1]) == (0, "Drained: no session is left.")
        assert stage.earshot("undrain").status == 0


def test_strangers_are_refused(stage: Stage) -> None:
    """Another user whom the socket's group lets in, and nobody at all by TCP."""
    stage.site.lab.dir.chmod(0o755)
    (stage.lab.dir / "earshotd.sock").chmod(0o666)
    nobody = ("setpriv", "--reuid=65534", "--clear-groups")
    said = stage.earshot("drain", "--deadline", "0", wrapper=nobody)
    assert (said.status, "neither root nor the daemon's own user" in said.err) == (1, True), said.err
    assert health(stage) == health_pb2.HealthCheckResponse.SERVING


def test_upgraded_again_and_again(stage: Stage, record_property: Record) -> None:
    with stage.attached(), stage.flowing(record_property) as phase:
        programs = {program_ids(stage)}
        with connected(stage.lab.dir / "earshotd.sock") as daemon:
            for _ in range(UPGRADES - 1):
                daemon.upgrade()
                programs.add(program_ids(stage))
                stage.traffic.wait_for_rounds(1)
        said = stage.earshot("datapath", "upgrade")
        assert (said.status, said.err.endswith("runs on 2 links.\n")) == (0, True), said.err
        programs.add(program_ids(stage))
    assert_whole(phase)
    assert len(programs) == UPGRADES + 1
    assert all(len(set(ids)) == 1 for ids in programs)
