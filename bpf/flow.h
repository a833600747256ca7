/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* A flow's record, and the way to its transceiver. */
#ifndef EARSHOT_FLOW_H
#define EARSHOT_FLOW_H

#include "local.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"

static __always_inline enum flow_state state_of(const struct flow *flow)
{
	return *(const volatile __u32 *)&flow->state & ((1 << FLOW_STATE_BITS) - 1);
}

static __always_inline __u32 with_state(__u32 word, enum flow_state state)
{
	return (word & ~((1u << FLOW_STATE_BITS) - 1)) | state;
}

/*
 * Its client's 5-tuple belongs to a newer record now. The daemon ends it; until
 * then its transceiver is not heard.
 */
static __always_inline void supersede(__u32 number)
{
	struct flow *flow = bpf_map_lookup_elem(&flows_v1, &number);
	__u32 word;

	if (!flow || state_of(flow) != FLOW_LIVE)
		return;
	word = flow->state;
	__sync_val_compare_and_swap(&flow->state, word, with_state(word, FLOW_SUPERSEDED));
}

static __always_inline __u32 now_ticks(void)
{
	/* Coarse: a read of a variable, not of the clock; a tick is no finer anyway. */
	return bpf_ktime_get_coarse_ns() >> FLOW_TICK_SHIFT;
}

static __always_inline __be16 relay_port(__u32 number)
{
	return bpf_htons(settings.port_min + (number & ((1u << settings.port_bits) - 1)));
}

static __always_inline __u32 record_number(__u16 relay, __be16 port)
{
	return ((__u32)relay << settings.port_bits) | (__u16)(bpf_ntohs(port) - settings.port_min);
}

/* Counters are plain: two CPUs on one flow may lose a count, never a packet. */
static __always_inline enum reason to_transceiver(struct xdp_md *ctx, struct packet *p, __u32 number,
						  enum reason reason)
{
	struct flow *flow = bpf_map_lookup_elem(&flows_v1, &number);
	__u32 relay_number = number >> settings.port_bits, backend_number;
	const struct backend *backend;
	const struct relay *relay;
	struct rewrite r;
	enum flow_state state;
	enum reason failed;

	if (!flow)
		return REASON_ABORTED_BAD_NUMBER;
	state = state_of(flow);
	if (state != FLOW_LIVE && (state != FLOW_PROVISIONAL || reason != REASON_FORWARD_PROVISIONAL))
		return REASON_DROP_STALE_FLOW;
	backend_number = flow->backend;
	backend = bpf_map_lookup_elem(&backends_v1, &backend_number);
	relay = bpf_map_lookup_elem(&relays_v1, &relay_number);
	if (!backend || !relay)
		return REASON_ABORTED_BAD_NUMBER;

	r.src = &relay->addr;
	r.dst = &backend->addr;
	r.sport = relay_port(number);
	r.dport = backend->port;
	r.ip_delta = flow->ip_delta;
	r.udp_delta = flow->udp_delta;
	r.hop = backend->hop;
	failed = rewrite(ctx, p, &r);
	if (failed != UNDECIDED)
		return failed;

	flow->up_packets++;
	flow->up_bytes += p->ip_len;
	flow->last_seen = now_ticks();
	return reason;
}

#endif
