/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* A flow's record, and the way to its transceiver. */
#ifndef EARSHOT_FLOW_H
#define EARSHOT_FLOW_H

#include "clock.h"
#include "local.h"
#include "index.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"

static __always_inline __u32 with_state(__u32 word, enum flow_state state)
{
	return (word & ~((1u << FLOW_STATE_BITS) - 1)) | state;
}

/*
 * Its client's 5-tuple belongs to a newer record now. The daemon ends it; until
 * then its transceiver is not heard.
 */
static __always_inline void supersede(struct flow *flow)
{
	__u32 word = *(volatile __u32 *)&flow->state;

	if ((word & ((1 << FLOW_STATE_BITS) - 1)) == FLOW_LIVE)
		__sync_val_compare_and_swap(&flow->state, word, with_state(word, FLOW_SUPERSEDED));
}

/*
 * number / span, by a multiplication: a division takes longer than all the rest
 * of the arithmetic. The ratio is rounded up by less than 1, so the product is too
 * large by less than number / 2^RELAY_RATIO_SHIFT, hence by less than 1 / span,
 * for number < 2^20 and span <= 2^16: never enough to reach the next whole number.
 */
#define RELAY_RATIO_SHIFT 40

static __always_inline __u32 relay_of(__u32 number)
{
	return number * settings.relay_ratio >> RELAY_RATIO_SHIFT;
}

static __always_inline __be16 relay_port(__u32 number, __u32 relay)
{
	return bpf_htons(settings.layout.port_min + number - relay * settings.layout.span);
}

static __always_inline __u32 record_number(__u16 relay, __be16 port)
{
	return relay * settings.layout.span + (__u16)(bpf_ntohs(port) - settings.layout.port_min);
}

/* Counters are plain: two CPUs on one flow may lose a count, never a packet. */
static __always_inline enum reason to_transceiver(struct xdp_md *ctx, struct packet *p, struct flow *flow,
						  __u32 number, enum reason reason)
{
	__u32 relay_number = relay_of(number), backend_number = flow->backend;
	const struct backend *backend = bpf_map_lookup_elem(&backends_v1, &backend_number);
	const struct relay *relay = bpf_map_lookup_elem(&relays_v1, &relay_number);
	struct rewrite r;
	enum reason failed;

	if (!backend || !relay)
		return REASON_ABORTED_BAD_NUMBER;

	r.src = &relay->addr;
	r.dst = &backend->addr;
	r.sport = relay_port(number, relay_number);
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
