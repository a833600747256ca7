/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Sessions whose transceiver keeps the pwd to itself. Nothing here can tell a
 * good request from a forged one, so its record is PROVISIONAL: it carries STUN
 * only, and little of it, until the transceiver has answered the very request
 * with success. Then it becomes a flow like any other. Until then it disturbs
 * nobody: a search for flows passes it over, so the client's 5-tuple still leads
 * to the flow that it led to before. The daemon ends it after 5 s.
 */
#ifndef EARSHOT_PROVISIONAL_H
#define EARSHOT_PROVISIONAL_H

#include "flow.h"
#include "maps.h"
#include "parse.h"
#include "stun.h"

/* Packets each way; a client sends some five requests before it gives up. */
#define PROVISIONAL_PACKETS 32

/* Bytes 8 to 15 of the message: most of the transaction id, as it stands there. */
static __always_inline int transaction_of(struct xdp_md *ctx, const struct packet *p, __u64 *transaction)
{
	return bpf_xdp_load_bytes(ctx, udp_offset(p) + sizeof(struct udphdr) + 8, transaction,
				  sizeof(*transaction));
}

/*
 * The request was answered: the record becomes the flow of its 5-tuple, and what
 * was that before is superseded. UNDECIDED, or the reason that it cannot be now.
 */
static __always_inline enum reason confirm(struct flow *flow)
{
	struct flow_key key = {
		.client_addr = flow->client_addr,
		.client_port = flow->client_port,
		.vip = flow->vip,
	};
	struct place place = place_of(&key);
	struct bucket *home = bpf_map_lookup_elem(&flow_index_v2, &place.bucket);
	struct flow *old;
	__u32 state, number;
	int live;

	if (!home)
		return REASON_ABORTED_BAD_NUMBER;
	if (!lock_bucket(home))
		return REASON_DROP_BUSY;
	live = find(&key, FLOW_LIVE, NULL);
	flow->down_bytes = 0;
	flow->down_packets = 0;
	state = *(volatile __u32 *)&flow->state;
	/* Fails if the daemon has ended the record meanwhile. */
	if ((state & ((1 << FLOW_STATE_BITS) - 1)) == FLOW_PROVISIONAL &&
	    __sync_val_compare_and_swap(&flow->state, state, with_state(state, FLOW_LIVE)) == state && live >= 0) {
		number = live;
		old = bpf_map_lookup_elem(&flows_v2, &number);
		if (old)
			supersede(old);
	}
	unlock_bucket(home);
	return UNDECIDED;
}

/*
 * A packet from the transceiver of a PROVISIONAL record. UNDECIDED: it may pass.
 * Not inlined: once in the life of a flow.
 */
__noinline int from_provisional(struct xdp_md *ctx, const struct packet *p, __u32 number, __u32 stun_type)
{
	struct flow *flow = bpf_map_lookup_elem(&flows_v2, &number);
	__u64 transaction;

	if (!p || !flow)
		return REASON_ABORTED_BAD_NUMBER;
	if (!is_stun(p->first) || flow->down_packets >= PROVISIONAL_PACKETS)
		return REASON_DROP_PROVISIONAL;
	if (transaction_of(ctx, p, &transaction))
		return REASON_DROP_TRUNCATED;
	if (stun_type == STUN_BINDING_SUCCESS && transaction == flow->down_bytes)
		return confirm(flow);
	return UNDECIDED;
}

#endif
