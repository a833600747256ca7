# SPDX-License-Identifier: Apache-2.0
"""Where a transceiver's state stands: which update follows on which, and whether two have the same."""

from __future__ import annotations

import pytest
from earshot.directory.v1 import directory_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from control.directory.replica import Relation, Replica, Stamper, total_of
from control.directory.store import Lease
from fleet.key import FleetKey

STAMPER = Stamper(FleetKey.of(bytes(32)))


def update(
    epoch: int, sequence: int, *, whole: bool = False, base: tuple[int, int] | None = None
) -> pb.Update:
    made = pb.Update(transceiver="t", head=pb.Head(epoch=epoch, sequence=sequence), whole=whole)
    if base is not None:
        made.base.epoch, made.base.sequence = base
    return made


@pytest.mark.parametrize(
    ("said", "relation"),
    [
        (update(5, 8), Relation.NEXT),
        (update(5, 9), Relation.GAP),
        (update(5, 7), Relation.OLD),
        (update(5, 1, whole=True), Relation.OLD),
        (update(4, 100), Relation.STALE),
        (update(4, 1, whole=True), Relation.STALE),
        (update(6, 1, whole=True), Relation.WHOLE),
        (update(6, 1), Relation.GAP),
        (update(6, 1, base=(5, 7)), Relation.NEXT),
        (update(6, 1, base=(5, 8)), Relation.GAP),
        (update(6, 1, base=(5, 6)), Relation.GAP),
        (update(6, 2), Relation.GAP),
    ],
)
def test_what_an_update_is(said: pb.Update, relation: Relation) -> None:
    assert Replica("t", 5, 7).relation(said) is relation


def test_a_state_of_which_parts_are_missing_is_nothing_to_go_on_from() -> None:
    partial = Replica("t", 5, 7, is_complete=False)
    assert partial.relation(update(5, 8)) is Relation.NEXT
    assert partial.relation(update(6, 1, base=(5, 7))) is Relation.GAP


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.binary(max_size=3)))))
def test_the_same_sessions_have_the_same_total_however_they_came(
    changes: list[tuple[str, bytes | None]],
) -> None:
    stepwise, plain = Replica("t"), dict[str, int]()
    for name, registration in changes:
        if registration is None:
            stepwise.drop(name)
            plain.pop(name, None)
        else:
            stamp = STAMPER.stamp(name.encode() + registration)
            stepwise.put(name, stamp)
            plain[name] = stamp
    assert stepwise.stamps == plain
    assert stepwise.total == total_of(plain.values())
    assert stepwise.agrees(pb.Head(sessions=len(plain), stamps=total_of(plain.values())))
    more = pb.Head(sessions=len(plain), stamps=total_of(plain.values()) ^ 1)
    assert not stepwise.agrees(more)


def test_stamps_are_the_fleets_own() -> None:
    assert STAMPER.stamp(b"x") == Stamper(FleetKey.of(bytes(32))).stamp(b"x")
    assert STAMPER.stamp(b"x") != Stamper(FleetKey.of(b"k" * 32)).stamp(b"x")
    assert STAMPER.stamp(b"x") != STAMPER.stamp(b"y")


@pytest.mark.parametrize("stored", [None, b"", b"junk", b"1 2", b"1 2 3 4", b"x y z", b"\xff 1 a"])
def test_what_is_no_lease_is_nobodys(stored: bytes | None) -> None:
    assert Lease.of(stored) == Lease(0, 0, "")


def test_a_lease_is_read_as_it_was_written() -> None:
    lease = Lease(1795698936666, 17, "ab" * 16)
    assert Lease.of(str(lease).encode()) == lease
