/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Binding: what an accepted Binding Request does, and nothing else can.
 *
 * A record goes FREE -> BINDING by compare-and-swap (its number came off the
 * queue, so the swap fails only if the queue lies), is filled, becomes LIVE,
 * and is then published in the forward index. Whoever finds another CPU's
 * entry there withdraws its own record, which nobody can have used yet.
 */
#ifndef EARSHOT_BIND_H
#define EARSHOT_BIND_H

#include "budget.h"
#include "checksum.h"
#include "flow.h"
#include "hop.h"
#include "integrity.h"
#include "local.h"
#include "maps.h"
#include "parse.h"
#include "provisional.h"
#include "stun.h"

/* What is known of a request once it has been accepted. */
struct binding {
	struct flow_key key;
	__u32 session;
	__u16 backend;
	__u16 hop;
	__u32 confirmed;   /* the request was authenticated here */
	__u64 transaction; /* of the request, for provisional.h */
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
 * Fills a new record and publishes it under key. A record that another CPU has
 * published under the key meanwhile is used instead.
 */
static __always_inline enum reason new_flow(const struct packet *p, const struct binding *b,
					    const struct flow_key *key, __u64 flags, __u32 *number)
{
	enum flow_state state = b->confirmed ? FLOW_LIVE : FLOW_PROVISIONAL;
	__u32 backend_number = b->backend, relay_number, *winner, seconds;
	const struct backend *backend;
	const struct relay *relay;
	struct flow *flow;
	enum reason reason;

	backend = bpf_map_lookup_elem(&backends_v1, &backend_number);
	if (!backend)
		return REASON_ABORTED_BAD_NUMBER;
	reason = charge_binding();
	if (reason != UNDECIDED)
		return reason;
	if (p->family == IPV4 ? bpf_map_pop_elem(&free_flows4_v1, number)
			      : bpf_map_pop_elem(&free_flows6_v1, number))
		return REASON_DROP_FLOWS_FULL;
	relay_number = *number >> settings.port_bits;
	flow = bpf_map_lookup_elem(&flows_v1, number);
	relay = bpf_map_lookup_elem(&relays_v1, &relay_number);
	if (!flow || !relay)
		return REASON_ABORTED_BAD_NUMBER;
	/* The number is not put back: the daemon finds it when it next starts. */
	if (__sync_val_compare_and_swap(&flow->state, FLOW_FREE, FLOW_BINDING) != FLOW_FREE)
		return REASON_DROP_FREE_LIST;

	flow->client_addr = p->src;
	flow->client_port = p->sport;
	flow->vip = b->key.vip;
	flow->backend = b->backend;
	flow->client_hop = b->hop;
	flow->session = b->session;
	flow->last_seen = now_ticks();
	flow->up_packets = 0;
	flow->down_packets = 0;
	flow->up_bytes = 0;
	flow->down_bytes = b->confirmed ? 0 : b->transaction;
	set_deltas(flow, p, relay, backend, relay_port(*number));
	seconds = bpf_ktime_get_coarse_ns() / 1000000000;
	__sync_lock_test_and_set(&flow->state, state | seconds << FLOW_STATE_BITS);

	if (bpf_map_update_elem(&flow_index_v1, key, number, flags)) {
		__sync_lock_test_and_set(&flow->state, FLOW_FREE);
		if (p->family == IPV4)
			bpf_map_push_elem(&free_flows4_v1, number, 0);
		else
			bpf_map_push_elem(&free_flows6_v1, number, 0);
		winner = bpf_map_lookup_elem(&flow_index_v1, key);
		if (!winner)
			return REASON_DROP_FLOWS_FULL;
		*number = *winner;
		return b->confirmed ? REASON_FORWARD_TO_TRANSCEIVER : REASON_FORWARD_PROVISIONAL;
	}
	return b->confirmed ? REASON_FORWARD_BOUND : REASON_FORWARD_PROVISIONAL;
}

static __always_inline int serves(const struct flow *flow, const struct binding *b, enum flow_state state)
{
	return state_of(flow) == state && flow->session == b->session && flow->backend == b->backend;
}

/* A request that was not authenticated: provisional.h. */
static __always_inline enum reason find_or_hold(const struct packet *p, const struct binding *b, __u32 *number)
{
	struct flow_key key = b->key;
	struct flow *flow;
	__u32 *found;

	key.vip |= PROVISIONAL_KEY;
	found = bpf_map_lookup_elem(&flow_index_v1, &key);
	if (!found)
		return new_flow(p, b, &key, BPF_NOEXIST, number);
	*number = *found;
	flow = bpf_map_lookup_elem(&flows_v1, number);
	if (!flow)
		return REASON_ABORTED_BAD_NUMBER;
	if (!serves(flow, b, FLOW_PROVISIONAL))
		return new_flow(p, b, &key, BPF_ANY, number);
	if (flow->up_packets >= PROVISIONAL_PACKETS)
		return REASON_DROP_PROVISIONAL;
	flow->down_bytes = b->transaction;
	return REASON_FORWARD_PROVISIONAL;
}

/*
 * The record that the request is forwarded by: the flow's own, or a new one
 * where there is none or where it belongs to another session. The valid request
 * always wins: the client has restarted, or a NAT has given its port away.
 */
static __always_inline enum reason find_or_bind(const struct packet *p, const struct binding *b, __u32 *number)
{
	struct flow_key key = b->key;
	__u32 *found = bpf_map_lookup_elem(&flow_index_v1, &key), old = 0;
	struct flow *flow;
	enum reason reason;

	if (found) {
		old = *found;
		flow = bpf_map_lookup_elem(&flows_v1, &old);
		if (!flow)
			return REASON_ABORTED_BAD_NUMBER;
		if (serves(flow, b, FLOW_LIVE)) {
			flow->client_hop = b->hop;
			*number = old;
			return REASON_FORWARD_TO_TRANSCEIVER;
		}
	}
	if (!b->confirmed)
		return find_or_hold(p, b, number);
	if (!found)
		return new_flow(p, b, &key, BPF_NOEXIST, number);
	reason = new_flow(p, b, &key, BPF_ANY, number);
	if (reason != REASON_FORWARD_BOUND)
		return reason;
	supersede(old);
	return REASON_FORWARD_REBOUND;
}

/* Whether packets of this 5-tuple are being forwarded. */
static __always_inline int has_flow(const struct binding *b)
{
	struct flow_key key = b->key;
	__u32 *number = bpf_map_lookup_elem(&flow_index_v1, &key);
	const struct flow *flow = number ? bpf_map_lookup_elem(&flows_v1, number) : NULL;

	return flow && state_of(flow) == FLOW_LIVE;
}

/*
 * Decides whether a Binding Request is accepted, and if so completes *b, which
 * has the key so far, but for the hop. Neither this nor bind_flow() is inlined:
 * they are functions of their own to the verifier, and off the hot path. What
 * their arguments point to goes to maps by way of the stack: kernels before 6.2
 * take no key or value from there.
 */
__noinline int accept_request(struct xdp_md *ctx, const struct packet *p, struct binding *b)
{
	const struct session *session;
	struct scratch *scratch;
	enum reason reason;
	struct stun stun;
	int known;

	if (!p || !b)
		return REASON_ABORTED_BAD_NUMBER;
	reason = check_source(p);
	if (reason != UNDECIDED)
		return reason;
	known = has_flow(b);
	if (!known) {
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
	if (!session)
		return REASON_DROP_UNKNOWN_UFRAG;
	if (!known && (session->flags & SESSION_HAS_PWD) && session_spent(session))
		return REASON_DROP_SESSION_BUDGET;
	b->transaction = *(__u64 *)&scratch->words[2]; /* before it is spoiled */
	b->confirmed = session->flags & SESSION_HAS_PWD;
	reason = check_integrity(scratch, &stun, session);
	if (reason != UNDECIDED)
		return reason;
	b->backend = session->backend[p->family == IPV6];
	if (!b->backend)
		return REASON_DROP_NO_BACKEND;
	b->session = session->number;
	return UNDECIDED;
}

/*
 * The record for an accepted request: the reason to forward it with and the
 * record's number, or the reason to drop it. Writes nothing to the packet.
 */
__noinline int bind_flow(struct xdp_md *ctx, const struct packet *p, struct binding *b, __u32 *number)
{
	enum reason reason = REASON_DROP_HOP_UNRESOLVED;
	__u32 chosen = 0;

	if (!p || !b || !number)
		return REASON_ABORTED_BAD_NUMBER;
	b->hop = client_hop(ctx, p, &reason);
	if (!b->hop)
		return reason;
	reason = find_or_bind(p, b, &chosen);
	*number = chosen;
	return reason;
}

#endif
