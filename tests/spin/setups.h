// SPDX-License-Identifier: Apache-2.0
/*
 * SETUP: records that there are to begin with; all others are free. CPUS: the packets that come to each
 * CPU, one or two, one after the other: run xdp(cpu, kind, key, session, kind, key, session).
 */
#define NO_MORE NOTHING, 0, 0

#ifdef SETUP_SAME
/* Two CPUs bind the same request, and the client's next packet comes. */
#define SETUP
#define PROCESSORS 2
#define CPUS run xdp(0, BIND, 1, 1, NO_MORE); run xdp(1, BIND, 1, 1, UP, 1, 0);
#endif

#ifdef SETUP_SESSIONS
/* Two CPUs bind one 5-tuple for different sessions, and the client's next packet comes. */
#define HOME_SLOTS 2
#define SETUP
#define PROCESSORS 2
#define CPUS run xdp(0, BIND, 1, 1, NO_MORE); run xdp(1, BIND, 1, 2, UP, 1, 0);
#endif

#ifdef SETUP_AGAIN
/* A bound client binds for another session while its packets go on. */
#define RECORDS 3
#define HOME_SLOTS 2
#define SETUP RECORD(0, 1, 1, LIVE, 1)
#define PROCESSORS 2
#define CPUS run xdp(0, BIND, 1, 2, DOWN, 0, 0); run xdp(1, UP, 1, 0, UP, 1, 0);
#endif

#ifdef SETUP_SPILL
/* A full home bucket: one 5-tuple of it spills, beside one whose home the next bucket is. */
#define RECORDS 3
#define NEXT_SLOTS 2
#define SETUP RECORD(0, 2, 3, LIVE, 0)
#define PROCESSORS 2
#define CPUS run xdp(0, BIND, 1, 1, NO_MORE); run xdp(1, BIND, 3, 2, UP, 1, 0);
#endif

#ifdef SETUP_NOWHERE
/* One slot for two 5-tuples of different homes: one of them is turned away. */
#define RECORDS 3
#define SETUP RECORD(0, 2, 3, LIVE, 0)
#define PROCESSORS 2
#define CPUS run xdp(0, BIND, 1, 1, UP, 1, 0); run xdp(1, BIND, 3, 2, NO_MORE);
#endif

#ifdef SETUP_SPILT
/* One entry is spilt; a second one is added and removed while the first is looked for. */
#define RECORDS 3
#define NEXT_SLOTS 2
#define SETUP RECORD(0, 2, 3, LIVE, 0) RECORD(1, 1, 1, LIVE, 1) m[WORD0(0)] = 2;
#define PROCESSORS 2
#define CPUS run xdp(0, BIND, 2, 2, NO_MORE); run xdp(1, UP, 1, 0, NO_MORE);
#endif

#ifdef SETUP_CONFIRM
/* A bound client has asked for a session whose transceiver answers, and asks for a third. */
#define RECORDS 3
#define HOME_SLOTS 2
#define SETUP RECORD(0, 1, 3, LIVE, 0) RECORD(1, 1, 1, PROVISIONAL, 1)
#define PROCESSORS 2
#define CPUS run xdp(0, CONFIRM, 0, 0, NO_MORE); run xdp(1, BIND, 1, 2, UP, 1, 0);
#endif

#ifdef SETUP_ASK
/* The same request twice, for a session that must answer first, and the answer. */
#define SETUP
#define PROCESSORS 2
#define CPUS run xdp(0, ASK, 1, 1, UP, 1, 0); run xdp(1, ASK, 1, 1, CONFIRM, 0, 0);
#endif

#ifdef SETUP_REUSE
/* A record is ended, rests, and is used again for another client, while packets go by it. */
#define SETUP RECORD(0, 2, 3, LIVE, 0)
#define PROCESSORS 2
#define CPUS run xdp(0, BIND, 1, 1, BIND, 3, 1); run xdp(1, UP, 2, 0, DOWN, 0, 0);
#endif

#ifdef SETUP_RING
/* Two CPUs take from a ring that runs empty and that the daemon fills. */
#define HOME_SLOTS 2
#define SETUP RECORD(0, 1, 3, SUPERSEDED, 0)
#define PROCESSORS 2
#define CPUS run xdp(0, BIND, 1, 1, BIND, 2, 1); run xdp(1, BIND, 3, 2, NO_MORE);
#endif

#ifdef SETUP_THREE
/* Two CPUs bind a bound client for other sessions, a third carries its packets. */
#define RECORDS 3
#define HOME_SLOTS 2
#define SETUP RECORD(0, 1, 3, LIVE, 1)
#define PROCESSORS 3
#define CPUS run xdp(0, BIND, 1, 1, NO_MORE); run xdp(1, BIND, 1, 2, NO_MORE); run xdp(2, UP, 1, 0, NO_MORE);
#endif

#ifdef SETUP_FOREIGN
/* A flow of another relay is entered while another CPU binds its client for another session, and carries its packets. */
#define FOREIGN_RECORD 0
#define HOME_SLOTS 2
#define SETUP
#define PROCESSORS 2
#define CPUS run xdp(0, ENTER, 1, 1, NO_MORE); run xdp(1, BIND, 1, 2, UP, 1, 0);
#endif

#ifdef SETUP_TOLD
/* The flow of another relay is told again, and that of another client at the same port, while packets go by it. */
#define FOREIGN_RECORD 0
#define SETUP RECORD(0, 1, 1, LIVE, 0)
#define PROCESSORS 2
#define CPUS run xdp(0, ENTER, 1, 1, ENTER, 3, 2); run xdp(1, UP, 1, 0, DOWN, 0, 0);
#endif

#ifdef SETUP_MOVED
/* A client leaves another relay's flow for a session here, is told of again, and its packets go on. */
#define FOREIGN_RECORD 0
#define HOME_SLOTS 2
#define SETUP RECORD(0, 1, 1, LIVE, 0)
#define PROCESSORS 2
#define CPUS run xdp(0, BIND, 1, 2, ENTER, 1, 1); run xdp(1, UP, 1, 0, UP, 1, 0);
#endif
