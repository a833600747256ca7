/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The way back to a client: the relay port is the record's number, and nothing is looked up by hash. */
#ifndef EARSHOT_ANSWER_H
#define EARSHOT_ANSWER_H

#include "flow.h"
#include "local.h"
#include "provisional.h"
#include "quality.h"
#include "rewrite.h"

static __always_inline enum reason to_client(struct xdp_md *ctx, struct packet *p, const struct local *local,
					     __u16 stun_type)
{
	__u32 number = record_number(local->number, p->dport), backend_number, vip_number;
	__u64 arrival = arrival_of(p);
	struct flow *flow = bpf_map_lookup_elem(&flows_v2, &number);
	const struct backend *backend;
	const struct vip *vip;
	struct quality *quality;
	struct rewrite r;
	enum reason failed;
	int provisional = 0;

	if (!flow)
		return REASON_ABORTED_BAD_NUMBER;
	quality = expect_rtp(arrival, number, WAY_DOWN);
	switch (state_before_fields(flow)) {
	case FLOW_LIVE:
		break;
	case FLOW_PROVISIONAL:
		provisional = 1;
		break;
	case FLOW_FREE:
	case FLOW_BINDING:
		return unclaimed(p, REASON_DROP_NO_RELAY_FLOW);
	default:
		return unclaimed(p, REASON_DROP_STALE_FLOW);
	}
	backend_number = flow->backend;
	backend = bpf_map_lookup_elem(&backends_v1, &backend_number);
	vip_number = flow->vip;
	vip = bpf_map_lookup_elem(&vips_v1, &vip_number);
	if (!backend || !vip)
		return REASON_ABORTED_BAD_NUMBER;
	if (p->sport != backend->port || !same_address(&p->src, &backend->addr))
		return unclaimed(p, REASON_DROP_WRONG_BACKEND);
	if (provisional) {
		failed = from_provisional(ctx, p, number, stun_type);
		if (failed != UNDECIDED)
			return failed;
	}
	measure(ctx, p, quality, number, flow->state, WAY_DOWN, stun_type, arrival);

	r.src = &vip->addr;
	r.dst = &flow->client_addr;
	r.sport = vip->port;
	r.dport = flow->client_port;
	r.ip_delta = ~flow->ip_delta;
	r.udp_delta = ~flow->udp_delta;
	r.hop = flow->client_hop;
	failed = rewrite(ctx, p, &r);
	if (failed != UNDECIDED)
		return failed;

	flow->down_packets++;
	/* The transaction stands there until it is confirmed. */
	if (!provisional || state_of(flow) != FLOW_PROVISIONAL)
		flow->down_bytes += p->ip_len;
	flow->last_seen = now_ticks();
	return REASON_FORWARD_TO_CLIENT;
}

#endif
