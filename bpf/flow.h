/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* An established flow: one record, two directions, no decision left to take. */
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
	enum reason failed;

	if (!flow)
		return REASON_ABORTED_BAD_NUMBER;
	if (state_of(flow) != FLOW_LIVE)
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

static __always_inline enum reason to_client(struct xdp_md *ctx, struct packet *p, const struct local *local)
{
	__u32 number = record_number(local->number, p->dport), backend_number, vip_number;
	struct flow *flow = bpf_map_lookup_elem(&flows_v1, &number);
	const struct backend *backend;
	const struct vip *vip;
	struct rewrite r;
	enum reason failed;

	if (!flow)
		return REASON_ABORTED_BAD_NUMBER;
	switch (state_of(flow)) {
	case FLOW_LIVE:
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
	flow->down_bytes += p->ip_len;
	flow->last_seen = now_ticks();
	return REASON_FORWARD_TO_CLIENT;
}

#endif
