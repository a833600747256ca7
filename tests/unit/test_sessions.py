# SPDX-License-Identifier: Apache-2.0
"""The registry: what it says and what it wants in the maps, at times that the tests choose."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control import abi
from control.addresses import Endpoint
from control.backends import NO_BACKEND, Backend
from control.model import Changes, Owner, Session, UfragKey
from control.records import owner_record, owners_of, session_records, sessions_of
from control.requests import Code, Credential, RequestError, SessionRequest
from control.sessions import BACKEND_REST_SECONDS, Registry

GRACE = 30
END_A = Endpoint(ip_address("10.0.0.9"), 4000)
END_B = Endpoint(ip_address("10.0.0.9"), 4001)
END_6 = Endpoint(ip_address("fd00::9"), 4000)
HOPS = {END_A: 1, END_B: 1, END_6: 2}
STATES = bytes(range(40))


def registry(max_sessions: int = 100, max_backends: int = 100) -> Registry:
    return Registry(max_sessions=max_sessions, max_backends=max_backends, grace_seconds=GRACE)


def attached(reg: Registry, name: str = "t1", now: float = 0) -> Owner:
    return reg.owner_of(reg.attach(name, "test", now))


def add(
    reg: Registry,
    owner: Owner,
    session_id: str,
    *ufrags: str,
    to: Endpoint = END_A,
    ttl: int = 0,
    now: float = 0,
) -> None:
    wanted = SessionRequest(
        session_id, tuple(Credential(ufrag, b"") for ufrag in ufrags), {"endpoints[0]": to}, ttl
    )
    reg.add(owner, wanted, [UfragKey(ufrag, STATES) for ufrag in ufrags], HOPS, now)


def ids(owner: Owner) -> set[str]:
    return set(owner.sessions)


class Maps:
    """What the maps would hold if all changes were applied."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.backends: dict[int, Backend] = {}
        self.hops: dict[int, int] = {}
        self.ended: list[tuple[str, frozenset[int]]] = []

    def apply(self, changes: Changes) -> None:
        self.backends.update(changes.backends)
        self.hops.update(changes.hops)
        for ufrag, session in changes.entries.items():
            if session is None:
                self.sessions.pop(ufrag, None)
            else:
                self.sessions[ufrag] = session
        self.ended += [(end.session.session_id, end.backends) for end in changes.ended]


def test_add_fills_the_backend_and_all_ufrags() -> None:
    reg, maps = registry(), Maps()
    add(reg, attached(reg), "s", "aaaa", "bbbb", to=END_6)
    maps.apply(reg.take_changes())
    session = maps.sessions["aaaa"]
    assert maps.sessions["bbbb"] is session
    assert session.backends == (NO_BACKEND, 1)
    assert (maps.backends[1].endpoint, maps.backends[1].users, maps.hops) == (END_6, 1, {1: 2})
    assert reg.take_changes() == Changes()


def test_ice_restart_keeps_number_and_flows() -> None:
    reg, maps = registry(), Maps()
    owner = attached(reg)
    add(reg, owner, "s", "aaaa")
    number = owner.sessions["s"].number
    add(reg, owner, "s", "aaaa", "bbbb")
    maps.apply(reg.take_changes())
    assert maps.sessions["bbbb"].number == maps.sessions["aaaa"].number == number
    add(reg, owner, "s", "bbbb")
    maps.apply(reg.take_changes())
    assert set(maps.sessions) == {"bbbb"}
    assert owner.sessions["s"].number == number
    assert maps.ended == []
    assert maps.backends[1].users == 1


def test_only_an_addition_says_which_hop() -> None:
    """Whoever follows the routes may have changed it since."""
    reg = registry()
    owner = attached(reg)
    add(reg, owner, "s", "aaaa", ttl=5)
    add(reg, owner, "u", "bbbb")
    assert reg.take_changes().hops == {1: 1}
    reg.renew(owner, "s", 1)
    reg.remove(owner, "u", 1)
    changes = reg.take_changes()
    assert (set(changes.backends), changes.hops) == ({1}, {})


def test_new_endpoint_ends_the_flows_to_the_old_one() -> None:
    reg, maps = registry(), Maps()
    owner = attached(reg)
    add(reg, owner, "s", "aaaa", to=END_A)
    add(reg, owner, "s", "aaaa", to=END_B)
    maps.apply(reg.take_changes())
    assert owner.sessions["s"].backends == (2, NO_BACKEND)
    assert maps.ended == [("s", frozenset({1}))]


def test_remove() -> None:
    reg, maps = registry(), Maps()
    owner = attached(reg)
    add(reg, owner, "s", "aaaa", "bbbb")
    reg.remove(owner, "s", 0)
    maps.apply(reg.take_changes())
    assert maps.sessions == {}
    assert maps.ended == [("s", frozenset({1}))]
    assert reg.session_count() == reg.ufrag_count() == 0


@pytest.mark.parametrize("call", [Registry.remove, Registry.renew])
def test_unknown_session(call: object) -> None:
    reg = registry()
    with pytest.raises(RequestError) as caught:
        call(reg, attached(reg), "nobody", 0)  # type: ignore[operator]
    assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, "session_id")


@pytest.mark.parametrize("other", ["t1", "t2"])
def test_ufrag_of_another_session(other: str) -> None:
    reg = registry()
    add(reg, attached(reg, "t1"), "s1", "aaaa")
    owner = attached(reg, other)
    with pytest.raises(RequestError) as caught:
        add(reg, owner, "s2", "bbbb", "aaaa")
    assert (caught.value.code, caught.value.field) == (Code.ALREADY_EXISTS, "credentials[1].ufrag")
    assert "s2" not in owner.sessions
    assert reg.ufrag_count() == 1


def test_full_table_refuses_new_and_keeps_old() -> None:
    reg = registry(max_sessions=2)
    owner = attached(reg)
    add(reg, owner, "s1", "aaaa")
    add(reg, owner, "s2", "bbbb")
    for session_id, ufrags in (("s3", ["cccc"]), ("s2", ["bbbb", "dddd"])):
        with pytest.raises(RequestError) as caught:
            add(reg, owner, session_id, *ufrags)
        assert (caught.value.code, caught.value.field) == (Code.RESOURCE_EXHAUSTED, "credentials")
    add(reg, owner, "s2", "eeee")
    assert owner.sessions["s2"].ufrags == ["eeee"]


def test_full_backends_take_back_what_was_acquired() -> None:
    reg = registry(max_backends=2)
    owner = attached(reg)
    wanted = SessionRequest(
        "s", (Credential("aaaa", b""),), {"endpoints[0]": END_A, "endpoints[1]": END_6}, 0
    )
    with pytest.raises(RequestError) as caught:
        reg.add(owner, wanted, [UfragKey("aaaa", b"")], HOPS, 0)
    assert (caught.value.code, caught.value.field) == (Code.RESOURCE_EXHAUSTED, "endpoints[1]")
    assert reg.take_changes().backends[1].users == 0
    add(reg, owner, "s", "aaaa", to=END_6, now=BACKEND_REST_SECONDS)
    assert owner.sessions["s"].backends == (NO_BACKEND, 1)


def test_backend_number_rests_before_it_means_another_endpoint() -> None:
    reg = registry(max_backends=2)
    owner = attached(reg)
    add(reg, owner, "s", "aaaa", to=END_A)
    reg.remove(owner, "s", 10)
    with pytest.raises(RequestError):
        add(reg, owner, "s", "aaaa", to=END_B, now=10 + BACKEND_REST_SECONDS - 0.1)
    add(reg, owner, "s", "aaaa", to=END_A, now=11)  # the same endpoint may have it back at once
    with pytest.raises(RequestError):
        add(reg, owner, "other", "bbbb", to=END_B, now=11 + BACKEND_REST_SECONDS)
    reg.remove(owner, "s", 12)
    with pytest.raises(RequestError):
        add(reg, owner, "s", "aaaa", to=END_B, now=10 + BACKEND_REST_SECONDS + 1)
    add(reg, owner, "s", "aaaa", to=END_B, now=12 + BACKEND_REST_SECONDS)


def test_expiry_and_renewal() -> None:
    reg, maps = registry(), Maps()
    owner = attached(reg)
    add(reg, owner, "s", "aaaa", ttl=10, now=0.5)
    add(reg, owner, "forever", "bbbb")
    reg.renew(owner, "s", 5)
    reg.renew(owner, "forever", 5)
    maps.apply(reg.take_changes())
    assert maps.sessions["aaaa"].expires == 15
    assert maps.backends[1].users == 2
    assert reg.sweep(14.9) == []
    assert [session.session_id for session in reg.sweep(15)] == ["s"]
    maps.apply(reg.take_changes())
    assert set(maps.sessions) == {"bbbb"}
    assert reg.sweep(1e6) == []


def test_shorter_time_to_live_replaces_a_longer_one() -> None:
    reg = registry()
    owner = attached(reg)
    add(reg, owner, "s", "aaaa", ttl=100)
    add(reg, owner, "s", "aaaa", ttl=10)
    assert len(reg.sweep(10)) == 1


def test_grace() -> None:
    reg, maps = registry(), Maps()
    attachment = reg.attach("t1", "", 0)
    owner = reg.owner_of(attachment)
    add(reg, owner, "s", "aaaa", ttl=20)
    add(reg, owner, "u", "bbbb")
    reg.detach(attachment, 100)
    assert reg.sweep(100 + GRACE - 0.1)[0].session_id == "s"
    assert [session.session_id for session in reg.sweep(100 + GRACE)] == ["u"]
    changes = reg.take_changes()
    maps.apply(changes)
    assert maps.sessions == {}
    assert changes.owners == {owner.number: None}
    assert reg.owners() == ()


def test_take_over_within_grace() -> None:
    reg = registry()
    first = reg.attach("t1", "", 0)
    add(reg, reg.owner_of(first), "s", "aaaa")
    reg.detach(first, 10)
    owner = attached(reg, "t1", 20)
    assert ids(owner) == {"s"}
    assert reg.sweep(1000) == []


def test_second_stream_replaces_the_first() -> None:
    reg = registry()
    first = reg.attach("t1", "", 0)
    add(reg, reg.owner_of(first), "s", "aaaa")
    second = reg.attach("t1", "", 1)
    with pytest.raises(RequestError) as caught:
        reg.owner_of(first)
    assert caught.value.code == Code.ABORTED
    reg.detach(first, 2)
    assert reg.owner_of(second).attached
    assert ids(reg.owner_of(second)) == {"s"}


def test_too_many_transceivers() -> None:
    reg = registry()
    for number in range(abi.OWNER_MAX):
        reg.attach(f"t{number}", "", 0)
    with pytest.raises(RequestError) as caught:
        reg.attach("one-more", "", 0)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED


def test_snapshot_in_parts_removes_what_none_names() -> None:
    reg = registry()
    owner = attached(reg)
    for session_id, ufrag in (("a", "aaaa"), ("b", "bbbb"), ("c", "cccc"), ("d", "dddd")):
        add(reg, owner, session_id, ufrag)
    reg.begin_snapshot(owner)
    add(reg, owner, "a", "aaaa")
    reg.keep(owner, ["b"])  # named, but refused
    reg.keep(owner, ["unknown"])
    add(reg, owner, "batch", "eeee")  # by a batch in between
    reg.begin_snapshot(owner)
    add(reg, owner, "c", "cccc")
    assert ids(owner) == {"a", "b", "c", "d", "batch"}
    assert reg.end_snapshot(owner, 0) == 1
    assert ids(owner) == {"a", "b", "c", "batch"}


def test_unfinished_snapshot_is_forgotten_with_its_stream() -> None:
    reg = registry()
    owner = attached(reg)
    reg.begin_snapshot(owner)
    add(reg, owner, "a", "aaaa")
    owner = attached(reg)
    reg.begin_snapshot(owner)
    assert reg.end_snapshot(owner, 0) == 1


def test_sessions_that_found_no_room_are_dropped_whole() -> None:
    reg, maps = registry(), Maps()
    owner = attached(reg)
    add(reg, owner, "s", "aaaa", "bbbb")
    add(reg, owner, "u", "cccc")
    maps.apply(reg.take_changes())
    assert [session.session_id for session in reg.drop(["bbbb"], 0)] == ["s"]
    maps.apply(reg.take_changes())
    assert set(maps.sessions) == {"cccc"}


def test_numbers_go_on_and_skip_live_ones() -> None:
    reg = registry()
    reg.restore([], [], [], [], 2**31 - 2, 0)
    owner = attached(reg)
    for index in range(3):
        add(reg, owner, f"s{index}", f"ufr{index}")
    assert [session.number for session in owner.sessions.values()] == [2**31 - 1, 1, 2]
    reg.remove(owner, "s2", 0)
    add(reg, owner, "s3", "ufr3")
    assert owner.sessions["s3"].number == 3


def test_restore_from_records() -> None:
    """What one daemon wrote, the next one reads: through the maps' own records."""
    before, maps = registry(), Maps()
    owner = attached(before, "t7")
    add(before, owner, "s", "aaaa", "bbbb", ttl=60)
    add(before, owner, "u", "cccc", to=END_6)
    maps.apply(before.take_changes())
    keys, values = session_records(maps.sessions)
    owners = np.concatenate([owner_record(owner), owner_record(None)])

    after = registry()
    backends = [Backend(number, one.endpoint) for number, one in maps.backends.items()]
    after.restore(owners_of(owners), backends, sessions_of(keys, values, 20), [], 2, 20)
    changes = after.take_changes()
    assert changes.entries == {}
    assert {number: one.users for number, one in changes.backends.items()} == {1: 1, 2: 1}
    (again,) = after.owners()
    assert (again.name, again.attached, again.since) == ("t7", False, 20)
    assert again.sessions["s"].keys == owner.sessions["s"].keys
    assert again.sessions["s"].expires == 60
    assert after.endpoints(again.sessions["u"]) == [END_6]
    assert len(after.sweep(20 + GRACE)) == 2


def test_restore_removes_what_does_not_hang_together() -> None:
    reg = registry()
    no_owner = Session(1, "a", 5, (UfragKey("aaaa", b""),), (1, 0), 0, 0)
    no_backend = Session(2, "b", 0, (UfragKey("bbbb", b""),), (9, 0), 0, 0)
    none_at_all = Session(3, "c", 0, (UfragKey("cccc", b""),), (0, 0), 0, 0)
    reg.restore([(0, "t1")], [Backend(1, END_A)], [no_owner, no_backend, none_at_all], [], 3, 0)
    assert reg.take_changes().entries == {"aaaa": None, "bbbb": None, "cccc": None}
    assert reg.session_count() == 0


def test_states_survive_the_records() -> None:
    session = Session(1, "a", 0, (UfragKey("aaaa", STATES), UfragKey("bbbb", b"")), (1, 0), 0, 0)
    keys, values = session_records({"aaaa": session, "bbbb": session})
    assert values["flags"].tolist() == [abi.SessionFlag.HAS_PWD, 0]
    assert values["inner"][0].tobytes() + values["outer"][0].tobytes() == STATES
    assert sessions_of(keys, values, 0) == [session]


class RegistryMachine(RuleBasedStateMachine):
    """Any order of calls leaves the registry and the maps in agreement."""

    names = st.sampled_from(["t1", "t2"])
    session_ids = st.sampled_from(["a", "b", "c"])
    ufrags = st.lists(
        st.sampled_from(["aaaa", "bbbb", "cccc", "dddd", "eeee"]), min_size=1, max_size=3, unique=True
    )

    def __init__(self) -> None:
        super().__init__()
        self.reg = registry(max_sessions=4, max_backends=4)
        self.maps = Maps()
        self.now = 0.0

    def owner(self, name: str) -> Owner:
        return next(
            (one for one in self.reg.owners() if one.name == name and one.attached), None
        ) or attached(self.reg, name, self.now)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.reg.sweep(self.now)

    @rule(
        name=names,
        sid=session_ids,
        ufrags=ufrags,
        to=st.sampled_from(list(HOPS)),
        ttl=st.sampled_from([0, 5, 50]),
    )
    def add(self, name: str, sid: str, ufrags: list[str], to: Endpoint, ttl: int) -> None:
        try:
            add(self.reg, self.owner(name), sid, *ufrags, to=to, ttl=ttl, now=self.now)
        except RequestError as error:
            assert error.code in (Code.ALREADY_EXISTS, Code.RESOURCE_EXHAUSTED)  # noqa: PT017

    @rule(name=names, sid=session_ids, what=st.sampled_from([Registry.renew, Registry.remove]))
    def change(self, name: str, sid: str, what: object) -> None:
        try:
            what(self.reg, self.owner(name), sid, self.now)  # type: ignore[operator]
        except RequestError as error:
            assert error.code == Code.NOT_FOUND  # noqa: PT017

    @rule(name=names)
    def reattach(self, name: str) -> None:
        attached(self.reg, name, self.now)

    @rule(name=names)
    def detach(self, name: str) -> None:
        self.reg.detach(self.reg.attach(name, "", self.now), self.now)

    @rule(name=names, kept=session_ids)
    def snapshot(self, name: str, kept: str) -> None:
        owner = self.owner(name)
        self.reg.begin_snapshot(owner)
        self.reg.keep(owner, [kept])
        self.reg.end_snapshot(owner, self.now)

    @invariant()
    def maps_agree(self) -> None:
        self.maps.apply(self.reg.take_changes())
        sessions = [session for owner in self.reg.owners() for session in owner.sessions.values()]
        assert self.maps.sessions == {ufrag: session for session in sessions for ufrag in session.ufrags}
        assert self.reg.session_count() == len(sessions) == len({session.number for session in sessions})
        assert self.reg.ufrag_count() == len(self.maps.sessions) <= 4
        for number, backend in self.maps.backends.items():
            if backend.users:
                assert backend.users == sum(number in session.backends for session in sessions)
        for session in sessions:
            for number in filter(None, session.backends):
                assert self.maps.backends[number].users > 0


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# ---- slices and limits --------------------------------------------------------------------------


def test_a_transceivers_own_limit_counts_ufrags() -> None:
    reg = Registry(max_sessions=100, max_backends=100, grace_seconds=GRACE, max_sessions_per_transceiver=3)
    one, two = attached(reg, "t1"), attached(reg, "t2")
    add(reg, one, "s", "aaaa", "bbbb")
    with pytest.raises(RequestError, match="max_sessions_per_transceiver") as caught:
        add(reg, one, "u", "cccc", "dddd")
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    add(reg, one, "s", "aaaa", "bbbb", "cccc")  # what it replaces makes room
    add(reg, two, "s", "dddd", "eeee", "ffff")
    assert (one.ufrags, two.ufrags) == (3, 3)
    reg.remove(one, "s", 0)
    assert one.ufrags == 0
    add(reg, one, "u", "gggg")


def test_a_restored_transceiver_is_held_to_the_limit() -> None:
    before = registry()
    add(before, attached(before), "s", "aaaa", "bbbb")
    session = before.session(1)
    assert session is not None
    after = Registry(max_sessions=100, max_backends=100, grace_seconds=GRACE, max_sessions_per_transceiver=2)
    after.restore([(0, "t1")], [Backend(1, END_A)], [session], [], 1, 0)
    with pytest.raises(RequestError):
        add(after, attached(after), "u", "cccc")


def test_sweep_in_slices() -> None:
    reg = registry()
    attachment = reg.attach("t1", "", 0)
    owner = reg.owner_of(attachment)
    for n in range(3):
        add(reg, owner, f"due{n}", f"due{n}", ttl=5)
        add(reg, owner, f"left{n}", f"left{n}")
    reg.detach(attachment, 10)
    swept = [len(reg.sweep(10 + GRACE, 2)) for _ in range(4)]
    assert swept == [2, 2, 2, 0]
    assert reg.owners() == ()
    assert reg.session_count() == 0


def test_a_transceiver_that_returns_between_slices_keeps_the_rest() -> None:
    reg = registry()
    attachment = reg.attach("t1", "", 0)
    for n in range(4):
        add(reg, reg.owner_of(attachment), f"s{n}", f"aaa{n}")
    reg.detach(attachment, 10)
    assert len(reg.sweep(10 + GRACE, 2)) == 2
    owner = attached(reg, "t1", 10 + GRACE)
    assert reg.sweep(1000, 2) == []
    assert len(owner.sessions) == 2


def test_end_of_a_snapshot_in_slices() -> None:
    reg = registry()
    owner = attached(reg)
    for n in range(5):
        add(reg, owner, f"s{n}", f"aaa{n}")
    reg.begin_snapshot(owner)
    reg.keep(owner, ["s3"])
    assert [reg.end_snapshot(owner, 0, 2) for _ in range(3)] == [2, 2, 0]
    assert ids(owner) == {"s3"}
    assert owner.snapshot is None


def test_a_stream_of_before_speaks_for_nobody_although_its_number_is_another_transceivers() -> None:
    reg = registry()
    old = reg.attach("t1", "test", 0)
    reg.detach(old, 0)
    reg.sweep(GRACE)
    new = reg.attach("t2", "test", GRACE)
    assert new.owner == old.owner
    assert reg.spoken_for(old) is None
    reg.end(old, GRACE)
    assert reg.owner_of(new).attached
