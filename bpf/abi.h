/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Everything that the XDP program shares with user space.
 *
 * The Python side (control/abi.py) is generated from this file's BTF by
 * bpf/generate_abi.py and a test holds the two together; nothing here is
 * mirrored by hand. Addresses and ports are big-endian bytes, as they stand in
 * a packet, so that neither side converts; IPv4 addresses are IPv4-mapped
 * (::ffff:a.b.c.d) so that one code path serves both families. All other
 * numbers are in the host's byte order.
 *
 * A change of layout or of meaning goes with a new version in the name of the
 * map that holds it (maps.h): old pins are then left alone, not misread.
 */
#ifndef EARSHOT_ABI_H
#define EARSHOT_ABI_H

#include <linux/types.h>

/* Number 0 means "none" wherever a hop or a backend is named. */
enum limit {
	UFRAG_MAX = 32,	     /* longest server ufrag that can be registered */
	SESSION_ID_MAX = 32, /* the transceiver's own name for a session */
	OWNER_NAME_MAX = 64,
	LOCAL_SLOTS = 64,    /* a power of two */
	VIP_MAX = 8,
	RELAY_MAX = 16, /* with the VIPs: half of the slots, so that a perfect hash is found */
	HOP_MAX = 16384,
	OWNER_MAX = 1024,
	SOURCE_CELLS = 65536, /* budgets of sources */
	DERIVED_CELLS = 65536, /* budgets of sessions that nobody has registered */
	SESSION_DERIVED_BIT = 31, /* of a session's number: its ufrag is routable, and says the other bits */
	FLEET_KEY_MAX = 16,
	FLEET_OWNER_MAX = 65536,
	LAST_DROPS_A_TICK = 256, /* kept by a CPU: a flood is not worth more */
	LAST_DROP_PLACES = 1024, /* 5-tuples whose last drop is kept, on each CPU; a power of two */
	TAP_MAX = 4, /* who may look at packets at a time */
	TAP_CPUS = 1024,
	TAP_HEAD = 64, /* bytes of a frame that are kept before it is changed: all that rewrite.h writes to, and more */
	FLOW_MAX = 1 << 20,  /* records that an entry of the index can name */
	FLOW_STATE_BITS = 4, /* of flow.state; the second of binding is above them */
	FLOW_TICK_SHIFT = 20, /* a tick is 2^20 ns of CLOCK_MONOTONIC, 1.05 ms */
	FOREIGN_MAX = 64,    /* flows of other relays that are entered in one go */
	FOREIGN_SECONDS = 2, /* bindings at two relays that are no further apart were at the same time */
	FLOW_STREAMS = 4,    /* SSRCs that are measured in a flow */
	CLOCK_UNIT = 25,     /* Hz: RTP clock rates are kept as multiples of it, ... */
	CLOCK_BITS = 12,     /* ... so wide, */
	CLOCK_USUAL = 1920,  /* and this one where none is said: 48 kHz, of Opus (RFC 7587) */
	SESSION_CLOCK_SHIFT = 4, /* in session.flags; 0: CLOCK_USUAL */
};

/*
 * Why the program did what it did. Every packet gets exactly one; append only.
 * The action follows from the first part of the name: PASS, FORWARD, DROP or
 * ABORTED. Each has a row in bpf/README.md, and a label in the metrics.
 */
enum reason {
	REASON_PASS_NOT_IP,
	REASON_PASS_VLAN,
	REASON_PASS_NOT_UDP,
	REASON_PASS_NOT_OURS,
	REASON_FORWARD_TO_TRANSCEIVER,
	REASON_FORWARD_TO_CLIENT,
	REASON_FORWARD_BOUND,	 /* a request that made a flow */
	REASON_FORWARD_REBOUND,	 /* a request that re-pointed a flow to another session */
	REASON_DROP_TRUNCATED,	 /* a header, or what a header announces, is cut short */
	REASON_DROP_BAD_LENGTH,	 /* the UDP length is not what IP carries */
	REASON_DROP_FRAGMENT,
	REASON_DROP_IP_OPTIONS,
	REASON_DROP_IPV6_EXTENSION,
	REASON_DROP_IPV6_NO_CHECKSUM,
	REASON_DROP_TTL,
	REASON_DROP_EMPTY,
	REASON_DROP_NOT_RTC,	 /* first byte outside RFC 7983's ranges */
	REASON_DROP_STUN_SHORT,
	REASON_DROP_STUN_LENGTH,
	REASON_DROP_STUN_COOKIE,
	REASON_DROP_STUN_ATTRIBUTE,
	REASON_DROP_STUN_TOO_MANY_ATTRIBUTES,
	REASON_DROP_STUN_NO_USERNAME,
	REASON_DROP_STUN_USERNAME_EMPTY,
	REASON_DROP_STUN_USERNAME_NO_COLON,
	REASON_DROP_STUN_USERNAME_TOO_LONG,
	REASON_DROP_UNKNOWN_UFRAG,
	REASON_DROP_SPOOFED_SOURCE, /* from the VIP's or a relay's own address */
	REASON_DROP_BAD_SOURCE,	 /* not a unicast address, or port 0 */
	REASON_DROP_NO_BACKEND,	 /* the session has no address in this family */
	REASON_DROP_NO_FLOW,	 /* to a VIP, from a client that is not bound */
	REASON_DROP_NO_RELAY_FLOW, /* to a relay port that carries no flow */
	REASON_DROP_WRONG_BACKEND, /* to a relay port, but not from its transceiver */
	REASON_DROP_STALE_FLOW,	 /* the flow has been ended or superseded */
	REASON_DROP_FLOWS_FULL,
	REASON_DROP_FREE_LIST,	 /* the queue handed out a number that is not free */
	REASON_DROP_HOPS_FULL,
	REASON_DROP_HOP_UNRESOLVED,
	REASON_DROP_UNROUTABLE,
	REASON_DROP_TOO_BIG,	 /* larger than the MTU of the link it must leave by */
	REASON_ABORTED_BAD_NUMBER, /* a map names an entry that does not exist */
	REASON_DROP_STUN_NO_FINGERPRINT,
	REASON_DROP_STUN_FINGERPRINT, /* there, and wrong */
	REASON_DROP_STUN_NO_INTEGRITY,
	REASON_DROP_STUN_INTEGRITY,   /* not made with the session's pwd */
	REASON_FORWARD_PROVISIONAL,   /* a request that only the transceiver can judge */
	REASON_DROP_PROVISIONAL,      /* its flow is not confirmed: not STUN, or too much of it */
	REASON_DROP_SOURCE_BUDGET,    /* too many requests without a flow from one prefix */
	REASON_DROP_BINDING_BUDGET,   /* too many new flows on this CPU */
	REASON_DROP_SESSION_BUDGET,   /* too many new flows of one session */
	REASON_DROP_INDEX_FULL,       /* no slot for a new flow: many of its neighbours have ended just now */
	REASON_DROP_BUSY,             /* other CPUs were binding in the same place all the while */
	REASON_DROP_UFRAG_FORGED,     /* reads as a routable one, but was not made with the fleet's key */
	REASON_DROP_UNKNOWN_OWNER,    /* a routable ufrag of a transceiver that is not here */
	REASON_DROP_LEASE_EXPIRED,    /* a new flow, while another relay may have taken our addresses */
	REASON_MAX,
};

struct address {
	union {
		__u8 bytes[16];
		__u32 words[4];
	};
};

struct reason_counter {
	__u64 packets;
	__u64 bytes; /* of the IP packet; of the frame where there is none */
};

/* ---- what of the host is ours ------------------------------------------ */

enum local_kind {
	LOCAL_NONE,
	LOCAL_VIP,   /* address and port of a VIP; number: index in vips */
	LOCAL_RELAY, /* a relay address, port 0; number: index in relays */
	LOCAL_OWN,   /* a VIP's address, port 0: known, but on its own not ours */
};

/* Ports inside the relay port range are looked up as port 0. */
struct local {
	struct address addr;
	__be16 port;
	__u8 kind; /* enum local_kind */
	__u8 foreign; /* a relay address of another relay of the group: user space's alone */
	__u16 number;
	__u16 pad2;
};

/*
 * A perfect hash: user space picks a seed with which no two entries share a
 * slot, so that one probe decides.
 */
struct locals {
	__u32 seed;
	__u32 pad;
	struct local slots[LOCAL_SLOTS];
};

struct vip {
	struct address addr;
	__be16 port;
	__u8 pad[6];
};

struct relay {
	struct address addr;
};

/* A link that the program is attached to: where packets may leave. */
struct link_info {
	__u8 mac[6];
	__u16 mtu; /* of the IP packet */
};

/* ---- next hops ---------------------------------------------------------- */

struct hop_key {
	struct address neighbour;
	__u32 ifindex;
};

enum hop_state {
	HOP_UNRESOLVED,
	HOP_RESOLVED,
	HOP_PROVISIONAL, /* the way its packets came: good until the daemon has asked */
};

/*
 * MACs change while packets fly: each is written together with its neighbour
 * field as one aligned 64-bit store, so that nobody reads half of one.
 */
struct hop {
	__u8 dmac[6];
	__u16 resolved; /* enum hop_state */
	__u8 smac[6];
	__u16 mtu;
	__u32 ifindex;
	__u32 taken_back; /* of entry 0 alone: how often the daemon has taken numbers back */
	__u32 pad[2];
};

/* ---- sessions and their owners ------------------------------------------ */

struct ufrag_key {
	char ufrag[UFRAG_MAX]; /* padded with zeros */
};

enum session_flag {
	SESSION_HAS_PWD = 1, /* inner and outer hold the HMAC-SHA1 key states */
	SESSION_FINGERPRINT_OPTIONAL = 2, /* its clients may leave FINGERPRINT out */
};

struct session {
	__u32 number;	    /* of the session; its ufrags share it */
	__u16 backend[2];   /* for IPv4, for IPv6 clients */
	__u16 owner;	    /* index in owners */
	__u16 flags;	    /* enum session_flag | RTP clock rate << SESSION_CLOCK_SHIFT */
	__u32 expires;	    /* seconds of CLOCK_MONOTONIC; 0: never. User space ends it */
	__u32 inner[5];	    /* SHA-1 state after the block of pwd ^ ipad */
	__u32 outer[5];	    /* SHA-1 state after the block of pwd ^ opad */
	char id[SESSION_ID_MAX];
	__u64 full_at;	    /* XDP's: when its budget of new flows is whole again (budget.h) */
};

/* A key that routable ufrags are made with, in its two parts. */
struct fleet_key {
	__u32 used;
	__u32 secret[5]; /* of the key that tags and pwds come from: a state of SHA-1 */
	__u64 mask[2];	 /* SipHash's key: it hides owners */
};

/* Where the sessions of a transceiver go that routable ufrags name by its number in the fleet. */
struct fleet_owner {
	__u16 backend[2]; /* for IPv4, for IPv6 clients; both 0: not here */
	__u16 owner;	  /* index in owners */
	__u16 pad;
};

struct owner {
	char name[OWNER_NAME_MAX]; /* padded with zeros; empty: not used */
	__u32 attached;		   /* 1 while its stream is open */
	__u32 since;		   /* when that changed, seconds of CLOCK_MONOTONIC */
};

/* Where a transceiver receives media. */
struct backend {
	struct address addr;
	__be16 port;
	__u16 hop;
	__u32 users; /* sessions that name it; written by user space only */
	__u32 pad[2];
};

/* ---- flows: docs/flow-table.md ------------------------------------------ */

/* What cannot change while the maps live. Whoever made them wrote it, once. */
struct layout {
	__u16 port_min; /* relay port range, host byte order, both ends included */
	__u16 port_max;
	__u32 span;	/* ports in the range: records for each relay address */
	__u32 relays;	/* relay addresses that there are records for */
	__u32 buckets;	/* of the index */
	__u32 hash_key[8]; /* random; [0] to [5] for flows, the others for budgets of sources */
};

enum flow_state {
	FLOW_FREE,
	FLOW_BINDING,
	FLOW_LIVE,
	FLOW_SUPERSEDED, /* its client's 5-tuple belongs to a newer record, or it found no slot */
	FLOW_DEAD,	 /* in quarantine */
	FLOW_PROVISIONAL, /* not confirmed by its transceiver: down_bytes holds the transaction */
};

/*
 * One flow, one relay port, one record, one cache line. The record's number is
 * the relay address's index * span + (port - port_min). It begins with its key.
 */
struct flow {
	struct address client_addr;
	__be16 client_port;
	__u16 vip;
	__u16 backend;
	__u16 client_hop;
	__u32 session;
	__u32 state;	 /* enum flow_state | second of binding << FLOW_STATE_BITS */
	__u32 last_seen; /* ticks, modulo 2^32; either direction */
	__u16 ip_delta;	 /* one's complement sums to add, client to transceiver; */
	__u16 udp_delta; /* the way back adds their complements */
	__u32 up_packets; /* up: client to transceiver */
	__u32 down_packets;
	__u64 up_bytes; /* of the IP packet */
	__u64 down_bytes;
};

/* Until when this relay may bind new flows, in ns of CLOCK_MONOTONIC; 0: for ever. */
struct lease {
	__u64 until;
};

/*
 * A flow that another relay of the group has bound, to be entered here: foreign.h. As
 * many as there are stand one after the other in what the program is run on.
 */
struct foreign {
	struct address client_addr;
	__be16 client_port;
	__u16 vip;
	__u32 number;  /* of the record: it is FREE, and in no ring */
	__u32 session;
	__u16 backend;
	__u16 clock;   /* of its RTP, in CLOCK_UNIT Hz; 0: CLOCK_USUAL */
	__u32 second;  /* of its binding, by this host's CLOCK_MONOTONIC; not 0 */
	__u32 outcome; /* the program's: enum reason, as of a request for it */
};

/* ---- quality: docs/quality.md ------------------------------------------- */

enum way {
	WAY_UP, /* client to transceiver */
	WAY_DOWN,
};

/*
 * What one SSRC sends one way: one cache line, written by the CPU that has its
 * packet. It holds while its identity is of its flow, so nobody needs to empty it.
 * Counts of 16 bits and peak_jitter stay at their largest value.
 */
struct stream {
	__u64 identity;	  /* flow.state, with enum way in place of the state | SSRC << 32 */
	__u64 arrival;	  /* of the last packet, ns of CLOCK_MONOTONIC */
	__u64 window;	  /* bit n: sequence number highest - n has come */
	__u32 received;	  /* packets; each once */
	__u32 lost;	  /* skipped, and not come since */
	__u32 duplicates;
	__u32 reordered;  /* came after a later one */
	__u32 timestamp;  /* of the last packet, as it says */
	__u32 jitter;	  /* 1/256 of a timestamp unit */
	__u32 began;	  /* ticks, modulo 2^32, of the first packet */
	__u16 highest;	  /* sequence number */
	__u16 suspect;	  /* the one that would prove that the numbers begin anew */
	__u16 clock;	  /* in CLOCK_UNIT Hz; above CLOCK_BITS: how often numbers began anew, at most 15 */
	__u16 peak_jitter; /* timestamp units */
	__u16 gaps;	  /* longer than GAP_NS */
	__u16 longest_gap; /* ms */
};

/* A STUN request one way, and its answer the other way. */
struct trip {
	__u64 transaction; /* of what is waited for: bytes 8 to 15 of the message */
	__u64 asked_at;	   /* ns of CLOCK_MONOTONIC; 0: nothing is waited for */
	__u32 microseconds; /* of the last one that was timed; 0: none was */
	__u32 answered_at; /* ticks, modulo 2^32 */
};

/*
 * By number of the flow, and apart from all else, so that they are close together: the first place of
 * each way, where most packets find their stream.
 */
struct quality {
	struct stream streams[2]; /* by way */
};

/* By number of the flow, too: the places that are searched then, and what is not of one stream. */
struct quality_more {
	struct stream streams[FLOW_STREAMS - 2];
	struct trip trips[2]; /* by the way of the request */
	__u32 binding;	      /* flow.state, with 0 in place of the state: of trips and all below */
	__u32 unmeasured;     /* RTP packets for whose SSRC there was no place */
	__u16 clock;	      /* in CLOCK_UNIT Hz */
	__u8 pad[6];
};

#define SCRATCH_WORDS 2048 /* a power of two; the longest message, its padding and more */

/* Where a request is checked, one for each CPU. */
struct scratch {
	__u32 words[SCRATCH_WORDS]; /* the message, as it stands in the packet */
	__u64 schedule[40];	    /* SHA-1: pairs of words, the first of each in the lower half */
	__u32 state[5];
	__u32 tag[5];
	struct ufrag_key ufrag;
	struct session derived;	    /* of a routable ufrag, and */
	__u32 pwd[6];		    /* its 22 characters, as words of SHA-1 */
};

/* The hop that a CPU came upon last: most clients are behind one router. */
struct last_hop {
	struct hop_key key;
	__u32 number; /* 0: none yet */
	__u32 taken_back; /* as hops said it then; another value: the number may be another's */
};

/* A client's 5-tuple: the VIP stands for three of the five. */
struct flow_key {
	struct address client_addr;
	__be16 client_port;
	__u16 vip;
};

enum bucket_word {
	BUCKET_SPILT,	/* XDP's: lock bit, and entries that went to the next buckets, counted in twos */
	BUCKET_REMOVED, /* the daemon's: how many of those it has removed, in twos */
	BUCKET_FIRST_SLOT,
	BUCKET_WORDS = 16,
};

enum bucket_bit {
	BUCKET_LOCKED = 1,
	BUCKET_SPILT_ONE = 2,
	BUCKET_SPILT_MASK = 0x7ffffffe, /* neither locked nor used */
};

/* A slot: SLOT_USED | tag << SLOT_NUMBER_BITS | number of the record; 0: empty. */
enum slot_bit {
	SLOT_NUMBER_BITS = 20,
	SLOT_TAG_BITS = 11,
	SLOT_TURNS = 4, /* buckets that an entry may be in: its home and the next three */
};

struct bucket {
	__u32 words[BUCKET_WORDS];
};

/* Numbers of free records, for one address family: a ring within free_flows. */
struct free_list {
	__u32 head; /* XDP's: where the next number is taken */
	__u32 pad[15];
	__u32 tail; /* the daemon's: where the next number is put */
	__u32 first; /* the ring's first place */
	__u32 size;  /* its places: one more than there are numbers */
	__u32 pad2[13];
};

#define FREE_LINE 16 /* numbers in an entry of free_flows */

struct free_line {
	__u32 numbers[FREE_LINE];
};

/* The last packet of a 5-tuple that was dropped (last_drop.h). Another 5-tuple may have had the same place. */
struct last_drop {
	__u32 check;   /* of the 5-tuple's hash; 0: none yet */
	__u32 reason;  /* enum reason */
	__u32 packets; /* dropped one after the other for this reason */
	__u32 seen;    /* ticks, modulo 2^32, of the last */
};

struct last_drops {
	__u32 tick; /* of the last one */
	__u32 kept; /* in that tick */
	struct last_drop entries[LAST_DROP_PLACES];
};

/* ---- taps: who looks at packets while they pass (tap.h) ------------------- */

enum tap_match {
	TAP_MATCH_CLIENT = 1, /* client, and client_port unless that is 0 */
	TAP_MATCH_VIP = 2,
	TAP_MATCH_UFRAG = 4, /* a request for it, or a packet of its session's flow */
};

enum tap_direction {
	TAP_ELSEWHERE,
	TAP_TO_TRANSCEIVER,
	TAP_TO_CLIENT,
};

/* What one of them wants to see: of what is set, all. Written by who looks, but for lost. */
struct tap {
	__u64 until;	  /* ns of CLOCK_MONOTONIC, up to which somebody is there; 0: nobody */
	__u64 lost;	  /* packets that there was no room for */
	__u64 reasons[2]; /* a bit each */
	__u32 match;	  /* enum tap_match */
	__u32 sample;	  /* one of so many, by chance; 0 and 1: each */
	__u32 snap;	  /* bytes of a frame, at most */
	__u32 session;	  /* that has the ufrag; NO_SESSION: none */
	struct address client;
	__be16 client_port;
	__u16 vip;	  /* number */
	__u32 pad;
	struct ufrag_key ufrag;
};

struct taps {
	__u64 until; /* the latest of all taps', or later: what every packet looks at */
	__u64 pad[7];
	struct tap taps[TAP_MAX];
};

/* What is told of a packet. Behind it stands the frame as the program left it, `snap` bytes at most. */
struct tap_event {
	__u64 time;	       /* ns of CLOCK_MONOTONIC, after the program has decided */
	struct address client; /* the packet's source; of one to a relay port, its flow's client */
	__be16 client_port;    /* 0: not known */
	__u16 reason;
	__u16 direction;       /* enum tap_direction */
	__u16 head_length;
	__u32 ifindex;	       /* of the link that it came by */
	__u32 egress;	       /* of the link that it leaves by; 0: none */
	__u32 length;	       /* of the frame */
	__u32 session;	       /* of its flow; NO_SESSION: it has none */
	__u8 head[TAP_HEAD];   /* the frame's first bytes, as it came */
};

#define NO_SESSION 0xffffffff

/* Sources that no budget holds for; the longest prefix counts. */
struct prefix_key {
	__u32 bits; /* of the mapped address: an IPv4 /24 has 120 */
	struct address addr;
};

_Static_assert(sizeof(struct address) == 16, "address");
_Static_assert(sizeof(struct local) == 24, "local");
_Static_assert(sizeof(struct locals) == 8 + 24 * LOCAL_SLOTS, "locals");
_Static_assert(sizeof(struct vip) == 24, "vip");
_Static_assert(sizeof(struct hop_key) == 20, "hop_key");
_Static_assert(sizeof(struct hop) == 32, "hop");
_Static_assert(sizeof(struct session) == 96, "session");
_Static_assert(sizeof(struct fleet_key) == 40, "fleet_key");
_Static_assert(sizeof(struct fleet_owner) == 8, "fleet_owner");
_Static_assert(sizeof(struct backend) == 32, "backend");
_Static_assert(sizeof(struct flow) == 64, "one flow, one cache line");
_Static_assert(sizeof(struct foreign) == 40, "foreign has no padding");
_Static_assert(sizeof(struct stream) == 64, "one stream, one cache line");
_Static_assert(sizeof(struct quality) == 128, "two cache lines");
_Static_assert(sizeof(struct quality_more) == 192, "three cache lines");
_Static_assert(sizeof(struct flow_key) == 20, "flow_key has no padding");
_Static_assert(sizeof(struct last_drop) == 16, "last_drop");
_Static_assert(sizeof(struct tap) == 104, "tap");
_Static_assert(sizeof(struct tap_event) == 112, "tap_event has no padding");
_Static_assert(sizeof(struct layout) == 48, "layout has no padding");
_Static_assert(sizeof(struct bucket) == 64, "a bucket is a cache line");
_Static_assert(sizeof(struct free_list) == 128, "head and tail have a cache line each");
_Static_assert(FLOW_MAX == 1 << SLOT_NUMBER_BITS && SLOT_NUMBER_BITS + SLOT_TAG_BITS == 31, "a slot");

#endif
