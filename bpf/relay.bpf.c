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
#include "index.h"
#include "flow.h"
#include "quality.h"
#include "bind.h"
#include "answer.h"
#include "verdict.h"
#include "tap.h"

/* A Binding Request: the record that it goes by, there already or new. */
static __always_inline enum reason admit(struct xdp_md *ctx, const struct packet *p, struct binding *binding,
					 __u32 *number)
{
	enum reason reason = accept_request(ctx, p, binding);

	if (reason != UNDECIDED)
		return reason;
	*number = binding->number;
	return binding->reason == UNDECIDED ? (enum reason)bind_flow(p, binding, number)
					    : (enum reason)binding->reason;
}

static __always_inline enum reason from_client(struct xdp_md *ctx, struct packet *p, __u32 vip, __u16 stun_type)
{
	struct flow_key key = { .client_addr = p->src, .client_port = p->sport, .vip = vip };
	enum reason reason = REASON_FORWARD_TO_TRANSCEIVER;
	__u32 number = 0;
	__u64 arrival = arrival_of(p);
	struct flow *flow = find_live(&key, &number);
	struct quality *quality = expect_rtp(arrival, number, WAY_UP);

	if (is_stun(p->first) && stun_type == STUN_BINDING_REQUEST) {
		struct binding binding = { .key = key, .live = flow ? (int)number : NOT_FOUND };

		reason = admit(ctx, p, &binding, &number);
		if (!is_forward(reason))
			return reason;
		flow = bpf_map_lookup_elem(&flows_v2, &number);
		if (!flow)
			return REASON_ABORTED_BAD_NUMBER;
	} else if (!flow) {
		return unclaimed(p, REASON_DROP_NO_FLOW);
	}
	measure(ctx, p, quality, number, flow->state, WAY_UP, stun_type, arrival);
	return to_transceiver(ctx, p, flow, number, reason);
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
	enum reason reason;

	if (somebody_looks())
		tap_before(ctx);
	reason = relay_packet(ctx, &p);
	if (somebody_looks())
		tap_after(ctx, &p, reason);
	return finish(ctx, &p, reason);
}

/* A program of its own: behind the packets', of which a kernel that refuses something is to tell first. */
#include "foreign.h"

/* The kernel asks whether GPL-only helpers may be called; the file is GPL-2.0 OR Apache-2.0. */
char LICENSE[] SEC("license") = "GPL";
