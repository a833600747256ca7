/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Binding: what an accepted Binding Request does, and nothing else can. Which
 * word is written when, and what other CPUs and the daemon may do meanwhile:
 * docs/flow-table.md.
 */
#ifndef EARSHOT_BIND_H
#define EARSHOT_BIND_H

#include "budget.h"
#include "checksum.h"
#include "flow.h"
#include "free_list.h"
#include "hop.h"
#include "index.h"
#include "integrity.h"
#include "local.h"
#include "maps.h"
#include "parse.h"
#include "provisional.h"
#include "routable.h"
#include "quality.h"
#include "stun.h"
#include "verdict.h"

/* What is known of a request once it has been accepted. */
struct binding {
	struct flow_key key;
	int live;	   /* number of the flow that its 5-tuple has already, or NOT_FOUND */
	struct target target;
	__u16 hop;
	__u16 confirmed;   /* the request was authenticated here */
	__u32 number;	   /* of the record that it goes by, ... */
	__u32 reason;	   /* ... which is there already if this is not UNDECIDED */
	__u32 second;	   /* of binding, where another relay has bound it (foreign.h); 0: here, and now */
	__u64 transaction; /* of the request, for provisional.h */
	__u16 clock;	   /* of its RTP, for quality.h */
};

static __always_inline enum reason check_source(const struct packet *p)
{
	__u32 first = bpf_ntohl(p->src.words[p->family == IPV4 ? 3 : 0]) >> 24;

	if (find_local(&p->src, 0))
		return REASON_DROP_SPOOFED_SOURCE;
	if (!p->sport)
		return REASON_DROP_BAD_SOURCE;
	if (p->family == IPV4)
		/* 0/8, 127/8, and 224/4 upwards (RFC 1122, 3.2.1.3) */
		return first == 0 || first == 127 || first >= 224 ? REASON_DROP_BAD_SOURCE : UNDECIDED;
	/* ff00::/8; and ::/32, which holds ::, ::1 and every mapped form (RFC 4291, 2.5) */
	return first == 0xff || !p->src.words[0] ? REASON_DROP_BAD_SOURCE : UNDECIDED;
}

/* One's complement sums of what changes between the client's side and the transceiver's. */
static __always_inline void set_deltas(struct flow *flow, const struct packet *p, const struct relay *relay,
				       const struct backend *backend, __be16 port)
{
	__u32 sum = sum_address(&relay->addr) + sum_address(&backend->addr) +
		    (__u16)~fold(sum_address(&p->src) + sum_address(&p->dst));

	flow->ip_delta = fold(sum);
	flow->udp_delta = fold(sum + port + backend->port + (__u16)~p->sport + (__u16)~p->dport);
}

/*
 * The record that serves a request already: its flow's, or one that waits for its
 * transceiver's word on this session. UNDECIDED: there is none.
 */
static __always_inline enum reason serving(const struct binding *b, int live, __u32 *number)
{
	struct flow *flow;
	int found;

	if (live >= 0) {
		*number = live;
		flow = bpf_map_lookup_elem(&flows_v2, number);
		if (flow && is_of(flow, &b->target)) {
			flow->client_hop = b->hop;
			return REASON_FORWARD_TO_TRANSCEIVER;
		}
	}
	if (b->confirmed)
		return UNDECIDED;
	found = find(&b->key, FLOW_PROVISIONAL, &b->target);
	if (found < 0)
		return UNDECIDED;
	*number = found;
	flow = bpf_map_lookup_elem(&flows_v2, number);
	if (!flow)
		return REASON_ABORTED_BAD_NUMBER;
	if (flow->up_packets >= PROVISIONAL_PACKETS)
		return REASON_DROP_PROVISIONAL;
	flow->down_bytes = b->transaction;
	return REASON_FORWARD_PROVISIONAL;
}

/* Everything of a new record but its state. */
static __always_inline void fill(struct flow *flow, const struct packet *p, const struct binding *b,
				 const struct relay *relay, const struct backend *backend, __be16 port)
{
	flow->client_addr = p->src;
	flow->client_port = p->sport;
	flow->vip = b->key.vip;
	flow->backend = b->target.backend;
	flow->client_hop = b->hop;
	flow->session = b->target.session;
	flow->last_seen = now_ticks();
	flow->up_packets = 0;
	flow->down_packets = 0;
	flow->up_bytes = 0;
	flow->down_bytes = b->confirmed ? 0 : b->transaction;
	set_deltas(flow, p, relay, backend, port);
}

/* Whether new flows may be bound: else another relay may have taken our addresses, and would not know of them. */
static __always_inline int has_lease(void)
{
	__u32 zero = 0;
	const struct lease *lease = bpf_map_lookup_elem(&lease_v1, &zero);
	__u64 until = lease ? *(const volatile __u64 *)&lease->until : 1;

	return !until || now_ns() < until;
}

/* The record for a new flow: UNDECIDED, or the reason that there is none. That of a foreign flow is given. */
static __always_inline enum reason choose_record(const struct packet *p, const struct binding *b, __u32 *number)
{
	if (b->second) {
		*number = b->number;
		return UNDECIDED;
	}
	return has_lease() ? take_number(p->family, number) : REASON_DROP_LEASE_EXPIRED;
}

/* A new record, published in the index, with the lock of its home held. */
static __always_inline enum reason new_flow(const struct packet *p, const struct binding *b, struct bucket *home,
					    struct place place, __u32 *number)
{
	enum flow_state state = b->confirmed ? FLOW_LIVE : FLOW_PROVISIONAL;
	__u32 backend_number = b->target.backend, relay_number, seconds;
	const struct backend *backend;
	const struct relay *relay;
	struct flow *flow;
	enum reason reason;

	backend = bpf_map_lookup_elem(&backends_v1, &backend_number);
	if (!backend)
		return REASON_ABORTED_BAD_NUMBER;
	reason = choose_record(p, b, number);
	if (reason != UNDECIDED)
		return reason;
	relay_number = relay_of(*number);
	flow = bpf_map_lookup_elem(&flows_v2, number);
	relay = bpf_map_lookup_elem(&relays_v1, &relay_number);
	if (!flow || !relay)
		return REASON_ABORTED_BAD_NUMBER;
	/* The number is not put back: it belongs to who has the record. */
	if (__sync_val_compare_and_swap(&flow->state, FLOW_FREE, FLOW_BINDING) != FLOW_FREE)
		return REASON_DROP_FREE_LIST;
	fill(flow, p, b, relay, backend, relay_port(*number, relay_number));
	/* Entered first: the daemon, which ends what is LIVE, then finds its slot. */
	if (!enter(home, place, *number)) {
		state = FLOW_SUPERSEDED;
		flow->down_bytes = 0; /* it is told as one that has ended: no transaction among its bytes */
		reason = REASON_DROP_INDEX_FULL;
	}
	/* After the fields, which the compare-and-swap of entering it has seen to. */
	seconds = b->second ? b->second : now_ns() / 1000000000;
	begin_quality(*number, state | seconds << FLOW_STATE_BITS, b->clock);
	*(volatile __u32 *)&flow->state = state | seconds << FLOW_STATE_BITS;
	if (reason != UNDECIDED)
		return reason;
	return b->confirmed ? REASON_FORWARD_BOUND : REASON_FORWARD_PROVISIONAL;
}

/*
 * Whether a foreign flow takes the place of the one that its 5-tuple has here: if it was bound later. Where
 * it was bound at the same time, as far as two hosts can tell, the higher relay address and port wins, so
 * that all relays of the group come to the same end.
 */
static __always_inline int prevails(const struct binding *b, const struct flow *live, __u32 live_number)
{
	__s32 later = b->second - (*(const volatile __u32 *)&live->state >> FLOW_STATE_BITS);
	__u32 one = relay_of(b->number), other = relay_of(live_number);
	const struct relay *ours, *theirs;
	int i;

	if (later > FOREIGN_SECONDS || later < -FOREIGN_SECONDS)
		return later > 0;
	ours = bpf_map_lookup_elem(&relays_v1, &one);
	theirs = bpf_map_lookup_elem(&relays_v1, &other);
	if (!ours || !theirs)
		return 0;
	for (i = 0; i < 4; i++)
		if (ours->addr.words[i] != theirs->addr.words[i])
			return bpf_ntohl(ours->addr.words[i]) > bpf_ntohl(theirs->addr.words[i]);
	return b->number > live_number;
}

/* The same as serving() for a foreign flow: UNDECIDED, it is to be entered. */
static __always_inline enum reason serving_foreign(const struct binding *b, int live)
{
	__u32 number = live;
	const struct flow *flow;

	if (live < 0)
		return UNDECIDED;
	if (number == b->number)
		return REASON_FORWARD_TO_TRANSCEIVER;
	flow = bpf_map_lookup_elem(&flows_v2, &number);
	return !flow || prevails(b, flow, number) ? UNDECIDED : REASON_DROP_STALE_FLOW;
}

/* What is done with the lock of the key's home held. */
static __always_inline enum reason bind_locked(const struct packet *p, const struct binding *b,
					       struct bucket *home, struct place place, __u32 *number)
{
	__u32 old_number = NO_NUMBER;
	struct flow *old = search_bucket(home, &place, &b->key, FLOW_LIVE, NULL, &old_number);
	enum reason reason;
	int live = NOT_FOUND;

	if (old)
		live = old_number;
	else if (!nothing_spilt(home))
		live = find(&b->key, FLOW_LIVE, NULL);
	/* Another CPU has bound the same request since it was accepted here. */
	reason = b->second ? serving_foreign(b, live) : serving(b, live, number);
	if (reason != UNDECIDED)
		return reason;
	reason = new_flow(p, b, home, place, number);
	if (reason != REASON_FORWARD_BOUND || live < 0)
		return reason;
	/*
	 * The valid request always wins: the client has restarted, or a NAT has given
	 * its port away. Last, so that the client leads somewhere all the time.
	 */
	old_number = live;
	old = bpf_map_lookup_elem(&flows_v2, &old_number);
	if (old)
		supersede(old);
	return REASON_FORWARD_REBOUND;
}

/*
 * Decides whether a Binding Request is accepted, and if so completes *b, which
 * has key and live so far. Neither this nor bind_flow() is inlined: they are functions
 * of their own to the verifier, and off the hot path. What their arguments point
 * to goes to maps by way of the stack: kernels before 6.2 take no key or value
 * from there.
 */
__noinline int accept_request(struct xdp_md *ctx, const struct packet *p, struct binding *b)
{
	struct session *session;
	struct scratch *scratch;
	enum reason reason;
	struct stun stun;
	__u32 number = 0, backend;
	__u64 *budget;
	int hop;

	if (!p || !b)
		return REASON_ABORTED_BAD_NUMBER;
	reason = check_source(p);
	if (reason != UNDECIDED)
		return reason;
	/* Budgets are for who has no flow yet. */
	if (b->live < 0) {
		reason = charge_source(p);
		if (reason != UNDECIDED)
			return reason;
	}
	scratch = load_message(ctx, p);
	if (!scratch)
		return REASON_DROP_TRUNCATED;
	reason = stun_attributes(scratch, p->payload_len, &stun);
	if (reason != UNDECIDED)
		return reason;
	reason = server_ufrag(scratch, &stun);
	if (reason != UNDECIDED)
		return reason;
	session = bpf_map_lookup_elem(&sessions_v1, &scratch->ufrag);
	if (session) {
		budget = &session->full_at;
	} else {
		reason = derive_session(scratch);
		if (reason != UNDECIDED)
			return reason;
		session = &scratch->derived;
		budget = derived_budget(session);
		if (!budget)
			return REASON_ABORTED_BAD_NUMBER;
	}
	if (b->live < 0 && (session->flags & SESSION_HAS_PWD) && session_spent(budget))
		return REASON_DROP_SESSION_BUDGET;
	b->transaction = *(__u64 *)&scratch->words[2]; /* before it is spoiled */
	b->confirmed = session->flags & SESSION_HAS_PWD;
	b->clock = session->flags >> SESSION_CLOCK_SHIFT;
	reason = check_integrity(scratch, &stun, session);
	if (reason != UNDECIDED)
		return reason;
	b->target.session = session->number;
	b->target.backend = session->backend[p->family == IPV6];
	if (!b->target.backend)
		return REASON_DROP_NO_BACKEND;
	hop = client_hop(ctx, p);
	if (hop < 0)
		return -hop;
	b->hop = hop;
	backend = b->target.backend;
	if (!bpf_map_lookup_elem(&backends_v1, &backend))
		return REASON_ABORTED_BAD_NUMBER;
	reason = serving(b, b->live, &number);
	b->number = number;
	b->reason = reason;
	if (reason == UNDECIDED)
		return charge_binding(budget);
	return is_forward(reason) ? UNDECIDED : reason;
}

/*
 * The record for an accepted request: the reason to forward it with and the
 * record's number, or the reason to drop it. Writes nothing to the packet.
 */
__noinline int bind_flow(const struct packet *p, const struct binding *b, __u32 *number)
{
	enum reason reason;
	struct bucket *home;
	struct place place;
	struct flow_key key;
	__u32 chosen = 0;

	if (!p || !b || !number)
		return REASON_ABORTED_BAD_NUMBER;
	key = b->key;
	place = place_of(&key);
	home = bpf_map_lookup_elem(&flow_index_v2, &place.bucket);
	if (!home)
		return REASON_ABORTED_BAD_NUMBER;
	if (!lock_bucket(home))
		return REASON_DROP_BUSY;
	reason = bind_locked(p, b, home, place, &chosen);
	unlock_bucket(home);
	*number = chosen;
	return reason;
}

#endif
