// SPDX-License-Identifier: Apache-2.0
/*
 * What must hold, and the bookkeeping that it takes to say so. Nothing here exists in the program.
 */

/* Which CPUs are at work on a packet, and for whom the end of each quarantine has yet to wait. A second
 * of quarantine stands for: whoever was at work when it began has finished. */
byte inside;
byte waits[RECORDS + 1]; /* the last: of the recovery's second look */
byte finished;           /* CPUs without further packets */
bool over;
bool crash; /* the daemon is to die now, before anything else happens */

/* How many are between taking a bucket's lock and giving it back. */
byte holders[2];

/* The record that a 5-tuple is to lead to, + 1; and of each CPU that searches for a client's packet: which
 * key, whether it must find something, and whether a newer record has appeared since it began. */
byte established[4];
byte searches[CPU_COUNT];
byte must_find[CPU_COUNT];
bool newer[CPU_COUNT];

/* While a search is under way, how often the 5-tuple may be re-pointed and it must find a record yet. */
#define TRIES 2
#ifdef BREAK_LOOK_ONCE
#define LOOKS 0
#else
#define LOOKS 1
#endif

/* What an assertion that fails says; each is false. */
hidden byte forwards_by_unfilled_record, forwards_for_another, finds_nothing, two_live;
hidden byte number_lost, number_twice, entry_left_behind, spilt_forgotten;

/* Scratch of the blocks below, not part of the state. */
hidden byte c, x, y, found, live1, live2, spilt_entries;

#define EACH_CPU(c, what) \
    c = 0; do :: c < CPU_COUNT -> what; c++ :: else -> break od; c = 0

/* The record's bind is done as far as a search goes: from now on, one must find it. */
inline published(key, number)
{
    d_step {
        EACH_CPU(c, newer[c] = newer[c] || searches[c] == key);
        established[key] = number + 1
    }
}

/* A record stops being LIVE because there is a newer one. A search that began before that one appeared may
 * have gone past its slot, and may come to the older record's only now. */
inline was_superseded(number)
{
    d_step {
        if
        :: established[m[KEY(number)]] != number + 1 ->
            EACH_CPU(c, if
                :: searches[c] == m[KEY(number)] && newer[c] && must_find[c] -> must_find[c]--
                :: else
                fi)
        :: else
        fi
    }
}

/* The daemon ends a flow: nobody need find it any more. */
inline was_ended(number)
{
    d_step {
        EACH_CPU(c, if
            :: searches[c] == m[KEY(number)] && (newer[c] || established[m[KEY(number)]] == number + 1) ->
                must_find[c] = 0
            :: else
            fi);
        if
        :: established[m[KEY(number)]] == number + 1 -> established[m[KEY(number)]] = 0
        :: else
        fi
    }
}

#define IN_RING(number, place, count) \
    count = 0; place = m[HEAD]; \
    do \
    :: place != m[TAIL] -> \
        if :: m[PLACE(place)] == number -> count++ :: else fi; \
        place = (place + 1) % PLACES \
    :: else -> break \
    od; place = 0

/* Nobody holds the bucket: one LIVE record at most for each of its 5-tuples. */
inline one_live_each(b)
{
    d_step {
        if
        :: holders[b] == 0 ->
            x = 0; live1 = 0; live2 = 0;
            do
            :: x < RECORDS ->
                if
                :: m[STATE(x)] == LIVE && HOME(m[KEY(x)]) == b && m[KEY(x)] != 2 -> live1++
                :: m[STATE(x)] == LIVE && HOME(m[KEY(x)]) == b && m[KEY(x)] == 2 -> live2++
                :: else
                fi; x++
            :: else -> break
            od;
            assert((live1 <= 1 && live2 <= 1) || two_live);
            x = 0; live1 = 0; live2 = 0
        :: else
        fi
    }
}

/* All CPUs have finished, and the daemon has nothing left to do. */
inline nothing_is_lost()
{
    d_step {
        x = 0;
        do
        :: x < RECORDS ->
            IN_RING(x, y, found);
            assert((m[STATE(x)] != BINDING && m[STATE(x)] != DEAD) || number_lost);
            /* A number is in the ring once, or in use; that of another relay never is there. */
            assert(m[STATE(x)] != FREE || found > 0 || FOREIGN(x) || number_lost);
            assert(found <= (m[STATE(x)] == FREE && !FOREIGN(x) -> 1 : 0) || number_twice);
            /* A record that is in use has one entry, or was turned away; any other has none. */
            found = 0; y = 0;
            do
            :: y < SLOTS ->
                if :: m[SLOT(y)] == x + 1 -> found++ :: else fi; y++
            :: else -> break
            od;
            assert(found <= (m[STATE(x)] == FREE -> 0 : 1) || entry_left_behind);
            assert((m[STATE(x)] != LIVE && m[STATE(x)] != PROVISIONAL) || found == 1 || finds_nothing);
            x++
        :: else -> break
        od;
        /* Bucket 0 never says that less is spilt than is; nothing of bucket 1 is ever spilt. */
        y = HOME_SLOTS; spilt_entries = 0;
        do
        :: y < SLOTS ->
            if
            :: m[SLOT(y)] != 0 && HOME(m[KEY(m[SLOT(y)] - 1)]) == 0 -> spilt_entries++
            :: else
            fi; y++
        :: else -> break
        od;
        assert(SPILT(m[WORD0(0)]) >= m[WORD1(0)] + spilt_entries || spilt_forgotten);
        assert(!LOCKED(m[WORD0(0)]) && !LOCKED(m[WORD0(1)]) && m[WORD1(1)] == 0);
        x = 0; y = 0; found = 0; spilt_entries = 0
    }
}

/* All records that are free to begin with, in the ring, but those of another relay. */
#define PUT_IN_RING \
    byte r; r = 0; \
    do \
    :: r < RECORDS -> \
        if :: m[STATE(r)] == FREE && !FOREIGN(r) -> m[PLACE(m[TAIL])] = r; m[TAIL] = m[TAIL] + 1 :: else fi; r++ \
    :: else -> break \
    od; r = 0;

#ifdef TSO
/* What the CPUs' buffers hold becomes visible: at this moment, a record is published, or ended. */
inline arrives(who)
{
    buffer[who] ? a, v ->
    if
    :: a < RECORDS && v == LIVE -> published(m[KEY(a)], a)
    :: a < RECORDS && v == DEAD -> was_ended(a)
    :: else
    fi;
    m[a] = v; a = 0; v = 0
}

active proctype memory()
{
    byte a, v;
end:
    do
    :: atomic { arrives(0) }
    :: atomic { arrives(1) }
    :: atomic { arrives(2) }
    :: atomic { arrives(DAEMON) }
    od
}
#endif
