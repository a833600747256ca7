// SPDX-License-Identifier: Apache-2.0
/*
 * A CPU and the packets that come to it. The first, unlocked search of a request is left out: it is that
 * of a client's packet (UP), and what it finds needs no binding.
 */

/* Finds the LIVE record of key: `hit`, number + 1; for a request also `own`, that of the same session,
 * LIVE or not yet confirmed. */
inline search()
{
    d_step { i = FIRST_SLOT(key); limit = BEHIND_HOME(key); hit = 0; own = 0; stale = 0 };
    do
    :: atomic { i < limit && m[SLOT(i)] == 0 -> i++ }
    :: atomic { i < limit && m[SLOT(i)] != 0 -> v = m[SLOT(i)]; i++ };
#ifdef KEY_BEFORE_STATE
        k = m[KEY(v - 1)];
#define FOUND_KEY k
#else
#define FOUND_KEY m[KEY(v - 1)]
#endif
        atomic {
#ifdef BREAK_ANY_STATE
            s = LIVE;
#else
            s = m[STATE(v - 1)];
#endif
            if
            :: s == FREE || s == BINDING || (s == PROVISIONAL && session == 0) -> s = 0; v = 0
            :: else
            fi
        };
        if
        :: v == 0
        :: else ->
            atomic {
                if
                :: FOUND_KEY == key ->
                    if
                    :: s == LIVE ->
                        hit = v; hit_session = m[SESSION(v - 1)];
                        if :: session == hit_session -> own = v :: else fi
                    :: s == PROVISIONAL && session == m[SESSION(v - 1)] && kind != ENTER -> own = v
                    :: s == SUPERSEDED || s == DEAD -> stale = 1
                    :: else
                    fi
                :: else
                fi;
                v = 0; s = 0;
                if
                :: (hit != 0 && kind == UP) || own != 0 -> break
                :: else
                fi
            }
        fi
    :: i == limit && limit == HOME_SLOTS ->
#if defined(BREAK_WORD0_BEFORE_WORD1)
        v = SPILT(m[WORD0(0)]);
        atomic { v = (v != m[WORD1(0)] -> SLOTS : 0); i = (v -> i : 0); limit = v; v = 0 }
#elif defined(WORD1_BEFORE_WORD0)
        /* As good as one load: what was read of removed can be too little since, never too much. */
        v = m[WORD1(0)];
        atomic { v = (v != SPILT(m[WORD0(0)]) -> SLOTS : 0); i = (v -> i : 0); limit = v; v = 0 }
#else
        atomic { v = (SPILT(m[WORD0(0)]) != m[WORD1(0)] -> SLOTS : 0); i = (v -> i : 0); limit = v; v = 0 }
#endif
    :: else ->
        /* It may have passed the slot that a newer record was then entered in. */
        if
        :: stale && hit == 0 && kind == UP && again < LOOKS ->
            atomic { again++; i = FIRST_SLOT(key); limit = BEHIND_HOME(key); stale = 0 }
        :: else -> break
        fi
    od;
    atomic { i = 0; limit = 0; v = 0; stale = 0; again = 0 }
}

/* From here on the packet is rewritten by the record: whose it is, is what it was when it was found. */
inline decide(number)
{
    d_step {
        assert((m[STATE(number)] != FREE && m[STATE(number)] != BINDING) || forwards_by_unfilled_record);
        by = number + 1; by_key = m[KEY(number)]; by_session = m[SESSION(number)]
    }
}

inline forward()
{
    d_step {
        assert((m[STATE(by - 1)] != FREE && m[STATE(by - 1)] != BINDING) || forwards_by_unfilled_record);
        assert((m[KEY(by - 1)] == by_key && m[SESSION(by - 1)] == by_session) || forwards_for_another);
        by = 0; by_key = 0; by_session = 0
    }
}

/* A compare-and-swap, or giving up: a request more or less. */
inline lock()
{
    if
    :: atomic { (DRAINED(me) && !LOCKED(m[WORD0(HOME(key))])) ->
#ifndef BREAK_NO_LOCK
            m[WORD0(HOME(key))] = m[WORD0(HOME(key))] + 1;
#endif
            word0 = m[WORD0(HOME(key))];
            holders[HOME(key)]++ }
    :: LOCKED(m[WORD0(HOME(key))]) -> goto packet_done
    fi
}

/* A store of word 0, which is the holder's. */
inline unlock()
{
#ifdef BREAK_NO_LOCK
    skip;
#else
    d_step { word0 = word0 - 1; STORE(me, WORD0(HOME(key)), word0); word0 = 0 };
#endif
}

/* Bookkeeping: the bind is over, for all to see. */
inline unlocked()
{
    atomic {
        DRAINED(me) ->
        holders[HOME(key)]--;
        one_live_each(HOME(key))
    }
}

inline supersede()
{
    if
    :: hit != 0 ->
#ifdef BREAK_SUPERSEDE_BY_STORE
        atomic { was_superseded(hit - 1); STORE(me, STATE(hit - 1), SUPERSEDED); hit = 0; hit_session = 0 }
#else
        atomic { DRAINED(me) ->
            if
            :: m[STATE(hit - 1)] == LIVE -> was_superseded(hit - 1); m[STATE(hit - 1)] = SUPERSEDED
            :: else
            fi;
            hit = 0; hit_session = 0
        }
#endif
    :: else
    fi
}

/* A number off the ring: `number`, + 1; 0: there is none. */
inline take()
{
    do
    :: head = m[HEAD];
        if
        :: head == m[TAIL] -> break
        :: head != m[TAIL]
        fi;
        number = m[PLACE(head)] + 1;
        if
        :: atomic { DRAINED(me) && m[HEAD] == head ->
#ifndef BREAK_TAKE_WITHOUT_SWAP
            m[HEAD] = (head + 1) % PLACES } ; break
#else
            skip } ; m[HEAD] = (head + 1) % PLACES; break
#endif
        :: m[HEAD] != head -> number = 0
        fi
    od;
    head = 0
}

/* In an empty slot of the home bucket, else of the next; `entered` says whether there was one. What is counted
 * as spilt, but found no slot, is counted out again. */
inline enter()
{
    d_step { i = FIRST_SLOT(key); limit = BEHIND_HOME(key); entered = 0 };
    do
    :: i < limit ->
        atomic { DRAINED(me) ->
            if
            :: m[SLOT(i)] == 0 -> m[SLOT(i)] = number; entered = 1
#ifdef BREAK_SLOT_USED_AGAIN
            /* The entry of a record of this 5-tuple that is not LIVE any more. */
            :: m[SLOT(i)] != 0 && m[KEY(m[SLOT(i)] - 1)] == key && m[STATE(m[SLOT(i)] - 1)] >= SUPERSEDED ->
                m[SLOT(i)] = number; entered = 1
#endif
            :: else -> i++
            fi }
        if
        :: entered -> break
        :: else
        fi
    :: i == limit && limit == HOME_SLOTS ->
#ifdef BREAK_SPILT_COUNTED_LATE
        d_step { limit = SLOTS; late = 1 }
#else
        d_step { word0 = word0 + 2; limit = SLOTS; STORE(me, WORD0(0), word0) }
#endif
    :: else ->
        if
        :: limit == SLOTS && HOME(key) == 0 -> d_step { word0 = word0 - 2; STORE(me, WORD0(0), word0) }
        :: else
        fi;
        break
    od;
    atomic { i = 0; limit = 0 }
}

/*
 * In place of take(): a record that the daemon has named. What is there already stays, if it is this flow, or
 * if it was bound later; which of two was bound later is anybody's guess here. So does a record that is not FREE.
 */
inline enter_given()
{
    if
    :: hit == FOREIGN_RECORD + 1 -> goto bound
    :: hit != 0 && hit != FOREIGN_RECORD + 1 -> goto bound
    :: hit != FOREIGN_RECORD + 1
    fi;
    number = FOREIGN_RECORD + 1;
    atomic { DRAINED(me) ->
        if
#ifdef BREAK_ENTER_IN_ANY_STATE
        :: true -> m[STATE(number - 1)] = BINDING
#else
        :: m[STATE(number - 1)] == FREE -> m[STATE(number - 1)] = BINDING
        :: else -> number = 0
#endif
        fi };
    if
    :: number == 0 -> goto bound
    :: else
    fi
}

inline fill()
{
    STORE(me, KEY(number - 1), key);
    STORE(me, SESSION(number - 1), session)
}

/* The bind is through when the record can be found. */
inline publish()
{
    atomic {
        STORE(me, STATE(number - 1), (kind == ASK -> PROVISIONAL : LIVE));
#ifndef TSO
        if :: kind != ASK && entered -> published(key, number - 1) :: else fi
#endif
    }
}

#ifdef FOREIGN_RECORD
#define BINDS (kind == BIND || kind == ASK || kind == ENTER)
#define REPLACES (kind == BIND || kind == ENTER)
#else
#define BINDS    (kind == BIND || kind == ASK)
#define REPLACES (kind == BIND)
#endif

inline begin_packet()
{
    inside = inside | (1 << me);
    if
    :: kind == UP ->
        searches[me] = key; must_find[me] = (established[key] -> TRIES : 0); newer[me] = 0
    :: else
    fi
}

inline end_packet()
{
    d_step {
        inside = inside & ~(1 << me);
        c = 0;
        do :: c <= RECORDS -> waits[c] = waits[c] & ~(1 << me); c++ :: else -> break od;
        c = 0;
        kind = kind2; key = key2; session = session2; kind2 = NOTHING; key2 = 0; session2 = 0;
        hit = 0; hit_session = 0; own = 0; number = 0; entered = 0;
        if :: kind == NOTHING -> finished++ :: else fi
    }
}

proctype xdp(byte me, kind, key, session, kind2, key2, session2)
{
    byte i, limit, v, s, hit, hit_session, own, head, number, word0, by, by_key, by_session;
    bool entered, stale;
#ifdef KEY_BEFORE_STATE
    byte k;
#endif
    byte again;
#ifdef BREAK_SPILT_COUNTED_LATE
    bool late;
#endif

next_packet:
    atomic { begin_packet() };
    if
    :: kind == UP ->
        search();
        atomic {
            searches[me] = 0; newer[me] = 0; assert(hit || !must_find[me] || finds_nothing); must_find[me] = 0;
            if
            :: hit -> decide(hit - 1)
            :: else -> goto packet_done
            fi
        };
        forward()

    :: kind == DOWN ->
        if :: v = 0 :: v = 1 fi;
#ifdef BREAK_FIELDS_BEFORE_STATE
        s = m[KEY(v)];
#endif
        atomic {
            if
            :: m[STATE(v)] == LIVE -> decide(v)
            :: else -> v = 0; s = 0; goto packet_done
            fi;
#ifdef BREAK_FIELDS_BEFORE_STATE
            assert(s == by_key || forwards_for_another);
#endif
            v = 0; s = 0
        };
        forward()

    :: kind == CONFIRM ->
        if :: number = 1 :: number = 2 fi;
        if
        :: m[STATE(number - 1)] == PROVISIONAL -> d_step { key = m[KEY(number - 1)]; session = 0 }
        :: else -> goto packet_done
        fi;
        lock();
        search();
        atomic { DRAINED(me) ->
            if
#ifdef BREAK_CONFIRM_BY_STORE
            :: true ->
#else
            :: m[STATE(number - 1)] == PROVISIONAL ->
#endif
                m[STATE(number - 1)] = LIVE; published(key, number - 1)
            :: else -> hit = 0
            fi }
        supersede();
        unlock();
        unlocked()

    :: BINDS ->
#ifdef BREAK_NO_SEARCH_UNDER_LOCK
        search();
        lock();
#elif defined(BREAK_ENTER_WITHOUT_LOCK)
        if
        :: kind == ENTER -> search()
        :: else -> lock(); search()
        fi;
#else
        lock();
        search();
#endif
#ifdef FOREIGN_RECORD
        if
        :: kind == ENTER -> enter_given(); goto chosen
        :: else
        fi;
#endif
        if
        :: own -> decide(own - 1); goto bound
        :: else
        fi;
        take();
        if
        :: number == 0 -> goto bound
        :: else
        fi;
        atomic {
            DRAINED(me) -> assert(m[STATE(number - 1)] == FREE || number_twice);
            m[STATE(number - 1)] = BINDING;
        };
chosen:
#ifdef BREAK_LIVE_BEFORE_FILLED
        enter(); publish(); fill();
#elif defined(BREAK_LIVE_BEFORE_ENTERED)
        fill(); publish(); enter();
        if
        :: entered && kind == BIND -> published(key, number - 1)
        :: entered
        :: else ->
            atomic { DRAINED(me) ->
                if
                :: m[STATE(number - 1)] == LIVE || m[STATE(number - 1)] == PROVISIONAL ->
                    m[STATE(number - 1)] = SUPERSEDED
                :: else
                fi }
            goto bound
        fi;
#elif defined(BREAK_SUPERSEDE_BEFORE_PUBLISH)
        fill(); enter();
        if :: REPLACES -> supersede() :: else fi;
        publish();
#elif defined(BREAK_ENTER_REPLACES_FIRST)
        fill(); enter();
        if :: kind == ENTER -> supersede() :: else fi;
        publish();
#else
        fill();
        enter();
        if
        :: entered
        :: else -> STORE(me, STATE(number - 1), SUPERSEDED); goto bound
        fi;
        publish();
#endif
#ifdef BREAK_SPILT_COUNTED_LATE
        if :: late -> d_step { late = 0; word0 = word0 + 2; STORE(me, WORD0(0), word0) } :: else fi;
#endif
#ifdef FOREIGN_RECORD
        if
        :: kind != ENTER -> d_step { by = number; by_key = key; by_session = session }
        :: else
        fi;
#else
        d_step { by = number; by_key = key; by_session = session };
#endif
#ifdef BREAK_UNLOCK_BEFORE_SUPERSEDE
        unlock(); unlocked();
        if :: REPLACES -> supersede() :: else fi;
        goto packet_done;
#else
        if :: REPLACES -> supersede() :: else fi;
#endif
bound:
#ifdef BREAK_ENTER_WITHOUT_LOCK
        if :: kind == ENTER -> goto packet_done :: else fi;
#endif
        unlock();
        unlocked();
        if :: by -> forward() :: else fi
    fi;
packet_done:
    atomic {
        DRAINED(me) -> end_packet();
        if
        :: kind != NOTHING -> goto next_packet
        :: else
        fi
    }
}
