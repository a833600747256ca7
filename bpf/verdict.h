/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * From reason to action. finish() is the only place that counts a packet and
 * the only place that returns an XDP action.
 */
#ifndef EARSHOT_VERDICT_H
#define EARSHOT_VERDICT_H

#include "last_drop.h"
#include "maps.h"
#include "parse.h"

static __always_inline int is_forward(enum reason reason)
{
	return (reason >= REASON_FORWARD_TO_TRANSCEIVER && reason <= REASON_FORWARD_REBOUND) ||
	       reason == REASON_FORWARD_PROVISIONAL;
}

static __always_inline int finish(struct xdp_md *ctx, const struct packet *p, enum reason reason)
{
	__u32 key = reason;
	struct reason_counter *counter = bpf_map_lookup_elem(&reasons_v1, &key);

	if (counter) {
		counter->packets++;
		counter->bytes += p->ip_len ? p->ip_len : bpf_xdp_get_buff_len(ctx);
	}

	if (is_forward(reason)) {
		/* The way it came is the cheaper way. */
		if (p->egress == ctx->ingress_ifindex)
			return XDP_TX;
		return bpf_redirect(p->egress, 0);
	}
	if (reason <= REASON_PASS_NOT_OURS)
		return XDP_PASS;
	remember_drop(p, reason);
	return reason == REASON_ABORTED_BAD_NUMBER ? XDP_ABORTED : XDP_DROP;
}

#endif
