# SPDX-License-Identifier: Apache-2.0
"""What spin is asked about the protocol of docs/flow-table.md: where it must hold, and what must break it.

A world is a set of macros of the model: a setup (setups.h says who does what), how often the daemon may
die (CRASHES, 1 unless given), how many flows it ends at most (ENDINGS, as many as it likes unless given),
and whether stores wait in x86's store buffers (TSO).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """One exhaustive search. `defines` are macros, without -D."""

    defines: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.defines).removeprefix("SETUP_")


@dataclass(frozen=True)
class Mutation:
    """One thing of the protocol done wrong, the world in which it shows, and what breaks first."""

    name: str  # BREAK_name in the model
    world: World
    breaks: str  # the claim of ghost.h
    why: str


def _world(setup: str, *more: str) -> World:
    return World((f"SETUP_{setup}", *more))


# All together some forty seconds.
EVERYDAY = [
    _world("SAME"),
    _world("SESSIONS"),
    _world("AGAIN"),
    _world("ASK", "ENDINGS=1"),
    _world("CONFIRM", "ENDINGS=1"),
    _world("SPILL", "ENDINGS=1"),
    _world("NOWHERE", "ENDINGS=1"),
    _world("SPILT", "ENDINGS=1"),
    _world("REUSE", "ENDINGS=2"),
    _world("RING", "ENDINGS=1"),
    _world("FOREIGN", "ENDINGS=1"),
    _world("TOLD"),
    _world("MOVED", "ENDINGS=1", "CRASHES=0"),
    _world("SESSIONS", "ENDINGS=1", "TSO"),
    _world("CONFIRM", "ENDINGS=1", "CRASHES=0", "TSO"),
    _world("SPILT", "ENDINGS=1", "TSO"),
    _world("RING", "ENDINGS=1", "TSO"),
    _world("FOREIGN", "ENDINGS=1", "CRASHES=0", "TSO"),
]

# Minutes each, and up to 2 GB: in scripts/nightly.
LONG = [
    *(_world(name) for name in ("ASK", "CONFIRM", "SPILL", "NOWHERE", "SPILT", "REUSE", "RING")),
    *(_world(name, "CRASHES=2") for name in ("SAME", "SESSIONS", "SPILT", "REUSE", "RING")),
    *(_world(name, "TSO") for name in ("SAME", "AGAIN", "ASK", "REUSE")),
    _world("SPILT", "ENDINGS=2", "WORD1_BEFORE_WORD0"),
    _world("REUSE", "KEY_BEFORE_STATE"),
    _world("AGAIN", "KEY_BEFORE_STATE"),
    _world("THREE", "CRASHES=0"),
    _world("THREE", "ENDINGS=1"),
    _world("FOREIGN"),
    _world("FOREIGN", "TSO"),
    _world("TOLD", "CRASHES=2"),
    _world("TOLD", "TSO"),
    _world("MOVED", "ENDINGS=1"),
    _world("MOVED", "CRASHES=0", "TSO"),
    # What is wrong, but harms nothing that is claimed.
    _world("SPILT", "BREAK_NO_RECOUNT"),
    _world("AGAIN", "BREAK_SUPERSEDE_BY_STORE"),
]

NO_CRASH = "CRASHES=0"

MUTATIONS = [
    Mutation(
        "NO_LOCK",
        _world("SESSIONS", NO_CRASH),
        "two_live",
        "two CPUs bind one 5-tuple, and neither sees the other's record",
    ),
    Mutation(
        "NO_SEARCH_UNDER_LOCK",
        _world("SAME", NO_CRASH),
        "two_live",
        "the same request, bound meanwhile by another CPU, is bound again",
    ),
    Mutation(
        "UNLOCK_BEFORE_SUPERSEDE",
        _world("SESSIONS", NO_CRASH),
        "two_live",
        "the bucket is nobody's while old and new record are LIVE",
    ),
    Mutation(
        "SUPERSEDE_BEFORE_PUBLISH",
        _world("SESSIONS", NO_CRASH),
        "finds_nothing",
        "the old record is no more, the new one not yet",
    ),
    Mutation(
        "LOOK_ONCE",
        _world("AGAIN", NO_CRASH),
        "finds_nothing",
        "a search passes the slot that the new record is then entered in, and finds the old one superseded",
    ),
    Mutation(
        "LIVE_BEFORE_ENTERED",
        _world("SAME", NO_CRASH),
        "entry_left_behind",
        "the daemon ends a record that has no slot yet; the slot that it then gets stays for ever",
    ),
    Mutation(
        "LIVE_BEFORE_FILLED",
        _world("SAME", NO_CRASH),
        "forwards_for_another",
        "a search finds a record with the fields of the flow before",
    ),
    Mutation(
        "ANY_STATE",
        _world("ASK", NO_CRASH),
        "forwards_by_unfilled_record",
        "a search takes what has the key, in whatever state",
    ),
    Mutation(
        "FIELDS_BEFORE_STATE",
        _world("REUSE", NO_CRASH),
        "forwards_for_another",
        "a transceiver's packet goes by fields read before the record became LIVE for another",
    ),
    Mutation(
        "NO_QUARANTINE",
        _world("REUSE", NO_CRASH),
        "forwards_by_unfilled_record",
        "the record is used again while a CPU still forwards by it",
    ),
    Mutation(
        "EMPTIED_BEFORE_DEAD",
        _world("SAME", NO_CRASH),
        "two_live",
        "a record that is LIVE still cannot be found, so its client is bound a second time",
    ),
    Mutation(
        "SLOT_USED_AGAIN",
        _world("SAME", NO_CRASH),
        "finds_nothing",
        "XDP enters a record over a dead one's entry, and the daemon empties it",
    ),
    Mutation(
        "CONFIRM_BY_STORE",
        _world("CONFIRM", NO_CRASH),
        "finds_nothing",
        "a record that the daemon has ended becomes LIVE again, without an entry",
    ),
    Mutation(
        "WORD0_BEFORE_WORD1",
        _world("SPILT", NO_CRASH),
        "finds_nothing",
        "between the two loads an entry is spilt and removed: the counts seem equal, and another is missed",
    ),
    Mutation(
        "SPILT_COUNTED_LATE",
        _world("SPILT", NO_CRASH),
        "finds_nothing",
        "a record is LIVE in the next bucket while its home says that nothing is there",
    ),
    Mutation(
        "REMOVED_COUNTED_EARLY",
        _world("SPILT", "ENDINGS=1"),
        "spilt_forgotten",
        "the daemon dies between count and emptying, and the next one counts the same entry again",
    ),
    Mutation(
        "RECOUNT_WITHOUT_SECOND_LOOK",
        _world("SPILT", "ENDINGS=1"),
        "spilt_forgotten",
        "the recount misses what a CPU spills meanwhile",
    ),
    Mutation(
        "DEAD_NOT_ENDED_AGAIN",
        _world("RING", "ENDINGS=1"),
        "number_lost",
        "what a daemon had in quarantine when it died stays there",
    ),
    Mutation(
        "LOST_NOT_SOUGHT",
        _world("RING", "ENDINGS=1"),
        "number_lost",
        "a daemon died between FREE and the ring",
    ),
    Mutation(
        "LOST_WITHOUT_SECOND_LOOK",
        _world("RING", "ENDINGS=1"),
        "number_twice",
        "a CPU has taken the number, but not yet made its record BINDING",
    ),
    Mutation(
        "FREED_BETWEEN_LOOKS",
        _world("RING", "ENDINGS=2"),
        "number_twice",
        "the number was used, given back and taken again between the looks",
    ),
    Mutation(
        "TAKE_WITHOUT_SWAP",
        _world("RING", NO_CRASH),
        "number_twice",
        "two CPUs take the number at the head",
    ),
    Mutation(
        "TAIL_BEFORE_NUMBER",
        _world("RING", NO_CRASH),
        "number_twice",
        "a CPU takes what stood in the place before",
    ),
    Mutation(
        "RING_BEFORE_FREE",
        _world("RING", NO_CRASH),
        "number_twice",
        "a CPU takes a number whose record is DEAD yet",
    ),
    Mutation(
        "RING_WITHOUT_SPARE_PLACE",
        _world("RING", NO_CRASH),
        "number_lost",
        "a full ring looks like an empty one",
    ),
    Mutation(
        "ENTER_WITHOUT_LOCK",
        _world("FOREIGN", NO_CRASH),
        "two_live",
        "a flow of another relay is entered while a CPU binds its client, and neither sees the other",
    ),
    Mutation(
        "ENTER_REPLACES_FIRST",
        _world("MOVED", NO_CRASH),
        "finds_nothing",
        "what was there is no more, the flow of another relay not yet",
    ),
    Mutation(
        "ENTER_IN_ANY_STATE",
        _world("TOLD", NO_CRASH),
        "entry_left_behind",
        "a flow of another relay is entered in a record that has been ended, and has its entry yet",
    ),
    Mutation(
        "FOREIGN_GIVEN_BACK",
        _world("TOLD", NO_CRASH),
        "number_twice",
        "the number of another relay's flow goes into the ring, as if a CPU might bind there",
    ),
    Mutation(
        "LOST_AND_FOREIGN",
        _world("FOREIGN", "ENDINGS=1"),
        "number_twice",
        "a start takes the numbers of another relay's addresses for lost ones",
    ),
]
