// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Earshot's packet path. This file is the order of steps; each step has a
 * header of its own. A step returns a reason, and finish() makes the action of
 * it. README.md beside this file lists the reasons.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "local.h"
#include "stun.h"
#include "flow.h"
#include "bind.h"
#include "answer.h"
#include "verdict.h"

static __always_inline enum reason from_client(struct xdp_md *ctx, struct packet *p, __u32 vip, __u16 stun_type)
{
	struct binding binding = {
		.key = { .client_addr = p->src, .client_port = p->sport, .vip = vip },
	};
	enum reason reason;
	__u32 *found, number = 0;

	if (is_stun(p->first) && stun_type == STUN_BINDING_REQUEST) {
		reason = accept_request(ctx, p, &binding);
		if (reason != UNDECIDED)
			return reason;
		reason = bind_flow(ctx, p, &binding, &number);
		if (!is_forward(reason))
			return reason;
		return to_transceiver(ctx, p, number, reason);
	}
	found = bpf_map_lookup_elem(&flow_index_v1, &binding.key);
	if (!found)
		return unclaimed(p, REASON_DROP_NO_FLOW);
	return to_transceiver(ctx, p, *found, REASON_FORWARD_TO_TRANSCEIVER);
}

static __always_inline enum reason relay_packet(struct xdp_md *ctx, struct packet *p)
{
	enum reason parsed, reason;
	const struct local *local;
	__u16 stun_type = 0;

	parsed = parse(ctx, p);
	if (parsed <= REASON_PASS_NOT_OURS)
		return parsed;
	local = local_of(p, parsed);
	if (!local)
		return REASON_PASS_NOT_OURS;
	/* ---- ours from here on: a surprise is dropped, and counted ---- */
	if (parsed != UNDECIDED)
		return parsed;
	reason = check_packet(ctx, p);
	if (reason != UNDECIDED)
		return reason;
	if (!is_rtc(p->first))
		return REASON_DROP_NOT_RTC;
	if (is_stun(p->first)) {
		reason = stun_header(ctx, p, &stun_type);
		if (reason != UNDECIDED)
			return reason;
	}
	if (local->kind == LOCAL_VIP)
		return from_client(ctx, p, local->number, stun_type);
	return to_client(ctx, p, local, stun_type);
}

SEC("xdp")
int earshot(struct xdp_md *ctx)
{
	struct packet p = {};

	return finish(ctx, &p, relay_packet(ctx, &p));
}

/* The kernel asks whether GPL-only helpers may be called; the file is GPL-2.0 OR Apache-2.0. */
char LICENSE[] SEC("license") = "GPL";
