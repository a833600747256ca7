// SPDX-License-Identifier: Apache-2.0
/*
 * The daemon: ends any flow at any time, step by step, and may die between any two steps. What it
 * remembers (who is in quarantine) is lost then; the next one finds all it needs in the maps.
 */

byte resting; /* the daemon's memory: bit of each record in quarantine */
byte crashes = CRASHES;
#ifdef ENDINGS
byte endings = ENDINGS; /* how many flows it ends at most */
#define MAY_END endings > 0
#define ENDING  endings--;
#else
#define MAY_END true
#define ENDING
#endif

active proctype killer()
{
end:
    do
    :: atomic { crashes > 0 && !crash && !over -> crashes--; crash = 1 }
    od
}

/* A store of DEAD, over LIVE, PROVISIONAL or SUPERSEDED. */
#define TO_BE_ENDED(number) \
    (m[STATE(number)] == LIVE || m[STATE(number)] == PROVISIONAL || m[STATE(number)] == SUPERSEDED)

inline make_dead()
{
#ifndef TSO
    was_ended(r);
#endif
    STORE(DAEMON, STATE(r), DEAD)
}

#ifdef BREAK_EMPTIED_BEFORE_DEAD
#define MAKE_DEAD skip
#else
#define MAKE_DEAD make_dead()
#endif

/* Finding record r's entry is one step: it was there before the record could be ended, and only the daemon
 * changes it. i: where it is, or SLOTS. */
inline find_entry()
{
    atomic {
        i = 0;
        do
        :: i < SLOTS && m[SLOT(i)] != r + 1 -> i++
        :: else -> break
        od
    }
}

#define ENTERED         i < SLOTS
#define ENTERED_BESIDES (i < SLOTS && i >= HOME_SLOTS && HOME(m[KEY(r)]) == 0)

inline empty_slot()
{
    STORE(DAEMON, SLOT(i), 0)
}

/* Word 1 is the daemon's own, so that this is one step. */
inline count_removed()
{
    OWN(WORD1(0)) -> STORE(DAEMON, WORD1(0), m[WORD1(0)] + 1)
}

/* A second begins, for all that are at work now. (The buffer of stores is empty long before it is over.) */
inline rest()
{
    DRAINED(DAEMON) -> resting = resting | (1 << r); waits[r] = inside; r = 0; i = 0
}

/* What follows the record's being DEAD. */
inline leave_index()
{
    find_entry();
#ifdef BREAK_REMOVED_COUNTED_EARLY
    if
    :: ENTERED_BESIDES -> atomic { count_removed() }
    :: else
    fi;
    atomic { if :: ENTERED -> empty_slot() :: else fi; rest() }
#else
    if
    :: ENTERED_BESIDES -> empty_slot(); atomic { count_removed(); rest() }
    :: else -> atomic { if :: ENTERED -> empty_slot() :: else fi; rest() }
    fi
#endif
}

inline end_flow()
{
#ifdef BREAK_EMPTIED_BEFORE_DEAD
    find_entry();
    if :: ENTERED -> empty_slot() :: else fi;
    atomic { make_dead() };
    if :: ENTERED_BESIDES -> count_removed() :: else fi;
    atomic { rest() }
#else
    leave_index()
#endif
}

/* The tail and the place behind it are the daemon's own. */
inline give_back()
{
    atomic {
        OWN(TAIL) ->
        IN_RING(r, v, w);
        assert(w == 0 || number_twice);
        v = m[TAIL];
#ifdef BREAK_TAIL_BEFORE_NUMBER
        STORE(DAEMON, TAIL, (v + 1) % PLACES)
#else
        STORE(DAEMON, PLACE(v), r)
#endif
    };
    atomic {
#ifdef BREAK_TAIL_BEFORE_NUMBER
        STORE(DAEMON, PLACE(v), r);
#else
        STORE(DAEMON, TAIL, (v + 1) % PLACES);
#endif
        resting = resting & ~(1 << r);
#ifndef BREAK_FREED_BETWEEN_LOOKS
        lost = lost & ~(1 << r);
#endif
        r = 0; v = 0
    }
}

#ifdef BREAK_NO_QUARANTINE
#define RESTED(number) (resting & (1 << (number)))
#else
#define RESTED(number) ((resting & (1 << (number))) && waits[number] == 0)
#endif

inline free_record()
{
#ifdef BREAK_RING_BEFORE_FREE
    count = r;
    give_back();
    atomic { STORE(DAEMON, STATE(count), FREE); count = 0 }
#elif defined(FOREIGN_RECORD) && !defined(BREAK_FOREIGN_GIVEN_BACK)
    STORE(DAEMON, STATE(r), FREE);
    if
    :: atomic { FOREIGN(r) -> resting = resting & ~(1 << r); r = 0 }
    :: !FOREIGN(r) -> give_back()
    fi
#else
    STORE(DAEMON, STATE(r), FREE);
    give_back()
#endif
}

inline end_any()
{
    if
    :: atomic { MAY_END && TO_BE_ENDED(0) -> ENDING r = 0; MAKE_DEAD }
    :: atomic { MAY_END && TO_BE_ENDED(1) -> ENDING r = 1; MAKE_DEAD }
#if RECORDS > 2
    :: atomic { MAY_END && TO_BE_ENDED(2) -> ENDING r = 2; MAKE_DEAD }
#endif
    fi;
    end_flow()
}

inline free_any()
{
    if
    :: atomic { RESTED(0) -> r = 0 }
    :: atomic { RESTED(1) -> r = 1 }
#if RECORDS > 2
    :: atomic { RESTED(2) -> r = 2 }
#endif
    fi;
    free_record()
}

/* Counts again what bucket 0 has spilt, unless a CPU is at it. */
inline count_again()
{
    if
    :: atomic { !LOCKED(m[WORD0(0)]) && SPILT(m[WORD0(0)]) != m[WORD1(0)] -> w = m[WORD0(0)]; i = HOME_SLOTS };
        do
        :: atomic { i < SLOTS && m[SLOT(i)] == 0 -> i++ }
        :: atomic { i < SLOTS && m[SLOT(i)] != 0 -> v = m[SLOT(i)]; i++ };
            /* That of a record in the making is not looked at: its bucket is locked, so word 0 will tell. */
            atomic {
                if
                :: m[STATE(v - 1)] != BINDING && HOME(m[KEY(v - 1)]) == 0 -> count++
                :: else
                fi;
                v = 0
            }
        :: i == SLOTS -> break
        od;
#ifndef BREAK_RECOUNT_WITHOUT_SECOND_LOOK
        if
        :: m[WORD0(0)] != w -> goto counted
        :: m[WORD0(0)] == w
        fi;
#endif
        STORE(DAEMON, WORD1(0), SPILT(w) - count)
    :: LOCKED(m[WORD0(0)]) || SPILT(m[WORD0(0)]) == m[WORD1(0)]
    fi;
counted:
    atomic { i = 0; v = 0; w = 0; count = 0 }
}

/* Of the numbers in `lost`, those whose records are FREE. */
inline keep_free()
{
    do
    :: atomic { r < RECORDS -> if :: m[STATE(r)] != FREE -> lost = lost & ~(1 << r) :: else fi; r++ }
    :: atomic { r == RECORDS -> r = 0; break }
    od
}

/* The ring's words are the daemon's own, but for the head: reading them is one step. */
inline find_lost()
{
    d_step {
        r = 0; lost = 0;
        do
        :: r < RECORDS ->
            IN_RING(r, v, w);
#ifdef BREAK_LOST_AND_FOREIGN
            if :: w == 0 -> lost = lost | (1 << r) :: else fi;
#else
            if :: w == 0 && !FOREIGN(r) -> lost = lost | (1 << r) :: else fi;
#endif
            r++
        :: else -> break
        od;
        r = 0; v = 0; w = 0
    };
    keep_free();
#ifndef BREAK_LOST_WITHOUT_SECOND_LOOK
    if
    :: lost ->
        waits[RECORDS] = inside;
        do
        :: end_any()
#ifdef BREAK_FREED_BETWEEN_LOOKS
        :: free_any()
#endif
        :: waits[RECORDS] == 0 -> break
        od;
        keep_free()
    :: else
    fi;
#endif
    do
    :: atomic { lost != 0 -> do :: !(lost & (1 << r)) -> r++ :: else -> break od };
#ifdef BREAK_FREED_BETWEEN_LOOKS
        lost = lost & ~(1 << r);
#endif
        give_back()
    :: lost == 0 -> break
    od
}

inline recover()
{
#ifndef BREAK_DEAD_NOT_ENDED_AGAIN
    do
    :: atomic { m[STATE(r)] != DEAD -> r++; if :: r == RECORDS -> r = 0; break :: else fi }
    :: m[STATE(r)] == DEAD && !(resting & (1 << r)) -> leave_index()
    :: atomic { resting & (1 << r) -> r++; if :: r == RECORDS -> r = 0; break :: else fi }
    od;
#endif
#ifndef BREAK_NO_RECOUNT
    count_again();
#endif
#ifndef BREAK_LOST_NOT_SOUGHT
    find_lost();
#endif
    skip
}

proctype daemon()
{
    byte r, i, v, w, count, lost;
    bool restarted;

start:
    {
        if
        :: restarted -> recover(); restarted = 0
        :: else
        fi;
        do
        :: end_any()
        :: free_any()
        :: atomic { finished == PROCESSORS && resting == 0 && DRAINED(DAEMON) -> over = 1 }; break
        od;
        goto stop
    } unless {
        atomic {
            crash && !over && DRAINED(DAEMON) ->
            crash = 0; restarted = 1;
            i = 0; v = 0; w = 0; count = 0; lost = 0; resting = 0;
            r = 0;
            do :: r <= RECORDS -> waits[r] = 0; r++ :: else -> break od;
            r = 0
        }
        goto start
    }
stop:
    nothing_is_lost()
}
