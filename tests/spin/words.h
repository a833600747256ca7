// SPDX-License-Identifier: Apache-2.0
/*
 * The words that CPUs and daemon share, and the small worlds in which the protocol is checked.
 *
 * Two buckets: bucket 0 is the home of keys 1 and 2 and spills to bucket 1, which is the home of key 3
 * and spills nowhere. A slot holds number + 1, or 0: as if all tags were the same, so that a search looks
 * at every record that it can come upon.
 */
#include "setups.h"

#define FREE        0
#define BINDING     1
#define PROVISIONAL 2
#define LIVE        3
#define SUPERSEDED  4
#define DEAD        5

#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef HOME_SLOTS
#define HOME_SLOTS 1
#endif
#ifndef NEXT_SLOTS
#define NEXT_SLOTS 1
#endif
#define SLOTS (HOME_SLOTS + NEXT_SLOTS)
#ifdef BREAK_RING_WITHOUT_SPARE_PLACE
#define PLACES RECORDS
#else
#define PLACES (RECORDS + 1)
#endif

#define STATE(r)   (r)
#define KEY(r)     (RECORDS + (r))
#define SESSION(r) (2 * RECORDS + (r))
#define WORD0(b)   (3 * RECORDS + (b))     /* bit 0: the lock; above it: spilt */
#define WORD1(b)   (3 * RECORDS + 2 + (b)) /* removed */
#define SLOT(i)    (3 * RECORDS + 4 + (i)) /* those of bucket 0, then those of bucket 1 */
#define PLACE(i)   (3 * RECORDS + 4 + SLOTS + (i))
#define HEAD       (3 * RECORDS + 4 + SLOTS + PLACES)
#define TAIL       (HEAD + 1)
#define WORDS      (TAIL + 1)
byte m[WORDS];

#define HOME(k)         ((k) == 3 -> 1 : 0)
#define FIRST_SLOT(k)   ((k) == 3 -> HOME_SLOTS : 0)
#define BEHIND_HOME(k)  ((k) == 3 -> SLOTS : HOME_SLOTS)
#define LOCKED(w)       ((w) & 1)
#define SPILT(w)        ((w) >> 1)

/* Of a CPU, its bit in a mask; the daemon writes through the last store buffer. */
#define CPU_COUNT 3
#define DAEMON    CPU_COUNT

#ifdef TSO
/*
 * Total store order, as on x86: what a CPU stores waits in its buffer, first in first out, while its
 * loads go ahead. A compare-and-swap empties the buffer first. A load of a word that is in the CPU's own
 * buffer waits for it (the hardware would hand over the value).
 */
chan buffer[CPU_COUNT + 1] = [3] of { byte, byte };
#define STORE(who, a, v) buffer[who] ! a, v
#define DRAINED(who)     empty(buffer[who])
#define OWN(a)           !(buffer[DAEMON] ?? [eval(a), _])
#else
#define STORE(who, a, v) m[a] = v
#define DRAINED(who)     true
#define OWN(a)           true
#endif

/* What a packet that comes to a CPU is. */
#define NOTHING  0
#define BIND     1 /* an accepted Binding Request of a session whose pwd is known */
#define ASK      2 /* one of a session whose transceiver must answer first */
#define CONFIRM  3 /* a transceiver's answer, to any relay port */
#define UP       4 /* a client's packet */
#define DOWN     5 /* a transceiver's packet, to any relay port */
#define ENTER    6 /* no packet: the daemon's program enters a flow of another relay, at FOREIGN_RECORD */

/* Whether a record is at an address of another relay: its number is the daemon's gift, and in no ring. */
#ifdef FOREIGN_RECORD
#define FOREIGN(r) ((r) == FOREIGN_RECORD)
#else
#define FOREIGN(r) false
#endif

/* A record as it is before anything happens: and entered in slot i. */
#define RECORD(r, k, s, state, i) \
    m[STATE(r)] = state; m[KEY(r)] = k; m[SESSION(r)] = s; m[SLOT(i)] = (r) + 1; \
    if :: state == LIVE -> established[k] = (r) + 1 :: else fi;

#ifndef CRASHES
#define CRASHES 1
#endif
