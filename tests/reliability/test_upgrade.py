# SPDX-License-Identifier: Apache-2.0
"""Another release takes over under load: with another layout of the flow table, or with none that loads."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from control import pinned
from tests.lab import release
from tests.lab.calls import RTP, call, payload
from tests.lab.netns import Lab
from tests.lab.nightly import NIGHTLY
from tests.lab.relay_client import RelayClient
from tests.lab.release import Edit
from tests.lab.services import BIN, relay_command, relay_target, start_relay
from tests.lab.topology import two_armed
from tests.reliability.stage import Record, Stage, assert_whole, set_up

pytestmark = [pytest.mark.root, pytest.mark.netns]

KILLS = 40 if NIGHTLY else 2
# A record of twice the size, in a map of another name, and how it is made of today's.
NEWER = (
    Edit("bpf/*.h", "} flows_v2", "} flows_v3"),
    Edit("bpf/*.[ch]", "&flows_v2", "&flows_v3"),
    Edit("control/**/*.py", '"flows_v2"', '"flows_v3"'),
    Edit("bpf/abi.h", "\t__u64 down_bytes;\n};", "\t__u64 down_bytes;\n\t__u64 more[8];\n};"),
    Edit("bpf/abi.h", "sizeof(struct flow) == 64", "sizeof(struct flow) == 128"),
    Edit(
        "control/carry.py",
        'FORMER: dict[str, Former] = {FLOWS: Former("flows_v1", abi.FLOW, table=ShiftTable)}',
        """def _widen(records: Array) -> Array:
    made = np.zeros(len(records), abi.FLOW)
    for field in records.dtype.names or ():
        made[field] = records[field]
    return made


_V2 = np.dtype({
    "names": [name for name in abi.FLOW.names if name != "more"],
    "formats": [abi.FLOW.fields[name][0] for name in abi.FLOW.names if name != "more"],
    "offsets": [abi.FLOW.fields[name][1] for name in abi.FLOW.names if name != "more"],
    "itemsize": 64,
})
FORMER: dict[str, Former] = {FLOWS: Former("flows_v2", _V2, _widen)}""",
    ),
)
# It reads beyond the packet, which no verifier lets pass.
BROKEN = (
    Edit(
        "bpf/relay.bpf.c",
        "\tstruct packet p = {};\n",
        "\tstruct packet p = { .ip_len = *(volatile __u8 *)(long)ctx->data_end };\n",
    ),
)


_DIE = '__import__("os").kill(__import__("os").getpid(), 9)\n'
# Where a start is made to die, by the line after which it does.
DEATHS = {
    "new maps are pinned": ("loader.py", "for name in new}, program_fd)\n"),
    "calls are copied": ("loader.py", "carrier.carry_all()\n"),
    "it is committed": ("loader.py", "stage.commit()\n"),
    "one link of two has the program": ("attaching.py", "libbpf.update_link(fd, program_fd)\n"),
    "both links have it": ("loader.py", "_install(program_fd, datapath, links, config, plan, undo)\n"),
    "a pin is moved": ("staging.py", "pin.rename(self._pin_path / pin.name)\n"),
}
OF_EVERY_DAY = ("calls are copied", "one link of two has the program", "a pin is moved")


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release.make(tmp_path_factory.mktemp("newer") / "release", NEWER)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release.make(tmp_path_factory.mktemp("broken") / "release", BROKEN)


@pytest.fixture
def own_stage() -> Iterator[Stage]:
    with set_up() as made:
        yield made


def test_a_newer_layout_takes_the_calls_over(own_stage: Stage, newer: Path, record_property: Record) -> None:
    """However often its first starts are killed. The older release then leaves it alone, and says so."""
    stage = own_stage
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with stage.flowing(record_property) as phase:
        stage.end()
        for _ in range(KILLS):
            stage.popen(newer)
            time.sleep(moments.uniform(0.3, 1.3))
            stage.end()
        stage.start_release(newer)
        with stage.attached() as attachment:
            assert attachment.welcome.sessions == len(stage.crowd.members)
            stage.traffic.wait_for_rounds(10)
            with stage.client() as relay:
                assert len(relay.flows()) == len(stage.crowd.members)
            stage.crowd.bind()  # requests of calls that are there make no new flows
            with stage.client() as relay:
                assert len(relay.flows()) == len(stage.crowd.members)
    assert_whole(phase)
    assert_only_todays(stage)
    stage.end()
    older = stage.popen()
    assert older.wait(20) == 1
    assert "is of a version that this one cannot take over" in stage.log()


@pytest.mark.parametrize(
    "moment",
    [pytest.param(one, marks=() if one in OF_EVERY_DAY else pytest.mark.nightly) for one in DEATHS],
)
def test_a_start_that_dies_in_the_middle_is_repaired(
    own_stage: Stage, newer: Path, moment: str, record_property: Record
) -> None:
    """By the next one. Meanwhile calls go on, by the one program or the other or both."""
    stage = own_stage
    name, line = DEATHS[moment]
    path = newer.parent / "control" / name
    whole = path.read_text()
    indent = next(one for one in whole.splitlines() if one.endswith(line.strip()))
    indent = indent[: len(indent) - len(indent.lstrip())]
    with stage.flowing(record_property) as phase:
        stage.end()
        path.write_text(whole.replace(line, f"{line}{indent}{_DIE}", 1))
        try:
            assert stage.popen(newer).wait(20) == -signal.SIGKILL
        finally:
            path.write_text(whole)
        stage.traffic.wait_for_rounds(3)
        stage.start_release(newer)
        with stage.attached() as attachment, stage.client() as relay:
            assert attachment.welcome.sessions == len(stage.crowd.members)
            assert len(relay.flows()) == len(stage.crowd.members)
            stage.traffic.wait_for_rounds(3)
    assert_whole(phase)
    assert_only_todays(stage)


def assert_only_todays(stage: Stage) -> None:
    """No pin of the upgrade, or of before, is left."""
    pins = {pin.name for pin in stage.lab.pins.iterdir()}
    assert "flows_v3" in pins
    assert pins.isdisjoint({"flows_v2", "next", "commit"})


def test_a_larger_relay_takes_the_calls_over(
    own_stage: Stage, tmp_path: Path, record_property: Record
) -> None:
    """Relay addresses and room for sessions are added: other sizes of five maps."""
    stage = own_stage
    added = ("--relay-address=10.20.0.2", "--relay-address=fd00:20::2", "--max-sessions=100000")
    stage.site.relay.ip("address add 10.20.0.2/24 dev transceiver")
    before = pinned.open_pinned(stage.lab.pins)
    capacity = before.capacity()
    before.close()
    name, line = DEATHS["a pin is moved"]
    indent = " " * 16
    dying = release.make(tmp_path / "dying", [Edit(f"control/{name}", line, f"{line}{indent}{_DIE}")])
    with stage.flowing(record_property) as phase:
        stage.end(signal.SIGTERM)
        # At first with some maps in their places, and some not.
        assert stage.popen(dying, *added).wait(20) == -signal.SIGKILL
        stage.traffic.wait_for_rounds(3)
        stage.start(*added)
        with stage.attached() as attachment:
            assert attachment.welcome.sessions == len(stage.crowd.members)
            stage.traffic.wait_for_rounds(10)
        after = pinned.open_pinned(stage.lab.pins)
        assert after.capacity() == 2 * capacity
        after.close()
        assert stage.live_flows() == len(stage.crowd.members)
    assert_whole(phase)
    # Other ports than calls may be at: refused, and nothing has happened.
    with stage.flowing(record_property) as phase:
        stage.end()
        assert stage.popen(BIN / "earshotd", *added, "--relay-ports=20000-29999").wait(20) == 1
        assert "belong to relay ports" in stage.log()
        stage.start(*added)
        stage.traffic.wait_for_rounds(5)
    assert_whole(phase)


def test_a_program_that_does_not_load_changes_nothing(
    own_stage: Stage, broken: Path, record_property: Record
) -> None:
    stage = own_stage
    running = {link.program_id for link in pinned.attached(stage.lab.pins)}
    with stage.flowing(record_property) as phase:
        stage.end()
        assert stage.popen(broken).wait(30) == 1
        assert {link.program_id for link in pinned.attached(stage.lab.pins)} == running
        said = stage.log().splitlines()[-1]
        assert "event=failed" in said
        assert "the kernel refused the BPF object" in said
        assert "invalid mem access" in said
        stage.start()
        stage.traffic.wait_for_rounds(5)
    assert_whole(phase)


def test_a_program_that_does_not_load_is_refused_by_the_running_daemon(
    own_stage: Stage, broken: Path, tmp_path: Path, record_property: Record
) -> None:
    """Installed under a daemon that runs: it says why, keeps its own, and takes a good one the next time."""
    stage = own_stage
    good = release.make(tmp_path / "release", ())
    program = tmp_path / "release" / "control" / "relay.bpf.o"
    with stage.flowing(record_property) as phase:
        stage.end()
        stage.start_release(good)
        running = {link.program_id for link in pinned.attached(stage.lab.pins)}
        with stage.attached():
            kept = program.read_bytes()
            program.write_bytes((broken.parent / "control" / "relay.bpf.o").read_bytes())
            said = stage.earshot("datapath", "upgrade")
            assert (said.status, "invalid mem access" in said.err) == (1, True), said.err
            assert {link.program_id for link in pinned.attached(stage.lab.pins)} == running
            program.write_bytes(kept)
            assert stage.earshot("datapath", "upgrade").status == 0
            assert not {link.program_id for link in pinned.attached(stage.lab.pins)} & running
            stage.traffic.wait_for_rounds(5)
    assert_whole(phase)


def test_a_very_first_start_that_dies_is_repaired(tmp_path: Path) -> None:
    """With one map pinned, and the others gone with it."""
    line = "libbpf.pin(program.map_fd(name), config.pin_path / name)\n"
    dying = release.make(tmp_path / "dying", [Edit("control/loader.py", line, f"{line}{' ' * 20}{_DIE}")])
    with Lab() as lab:
        site = two_armed(lab)
        _, *flags = relay_command(site)
        assert lab.popen(site.relay, str(dying), *flags).wait(20) == -signal.SIGKILL
        assert len(list(lab.pins.iterdir())) == 1
        start_relay(site)
        with (
            RelayClient(relay_target(site)) as relay,
            relay.attach("t") as attachment,
            call(site, attachment, 4) as made,
        ):
            made.bind(4)
            made.down(payload(RTP, 100))
