/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * `earshot trace` and `earshot capture`: packets are told of while they pass, to whoever
 * looks, with what became of them and why. As long as nobody does, this costs each packet
 * twice the look at one word, which no CPU writes to.
 *
 * Who looks says until when, and says so again while it is there. If it dies, its rings are
 * gone from the map at once, and a few seconds later nothing is tried any more.
 *
 * A frame is kept as it came by its first bytes: rewrite.h writes to no others.
 */
#ifndef EARSHOT_TAP_H
#define EARSHOT_TAP_H

#include "clock.h"
#include "flow.h"
#include "index.h"
#include "local.h"
#include "maps.h"
#include "parse.h"
#include "stun.h"
#include "verdict.h"

#define TAP_NO_ROOM (-28) /* ENOSPC */

static __always_inline int somebody_looks(void)
{
	__u32 zero = 0;
	const struct taps *taps = bpf_map_lookup_elem(&taps_v1, &zero);
	__u64 until;

	if (!taps)
		return 0;
	until = *(const volatile __u64 *)&taps->until;
	return until && until > now_ns();
}

/* Keeps the frame's first bytes. */
__noinline int tap_before(struct xdp_md *ctx)
{
	__u32 zero = 0, length = bpf_xdp_get_buff_len(ctx);
	struct tap_event *event = bpf_map_lookup_elem(&tap_event_v1, &zero);

	if (!event)
		return 0;
	event->length = length;
	event->head_length = 0;
	if (length < ETH_HLEN)
		return 0;
	barrier_var(length); /* see load_message() */
	if (length > TAP_HEAD)
		length = TAP_HEAD;
	if (!bpf_xdp_load_bytes(ctx, 0, event->head, length))
		event->head_length = length;
	return 0;
}

/* Whether it is a Binding Request for the ufrag of a tap. Only its header has been changed. */
static __always_inline int asks_for(struct xdp_md *ctx, const struct packet *p, const struct tap *tap)
{
	const __u64 *wanted = (const __u64 *)&tap->ufrag, *asked;
	struct scratch *scratch;
	struct stun stun;

	if (!is_stun(p->first))
		return 0;
	scratch = load_message(ctx, p);
	if (!scratch || bpf_ntohl(scratch->words[0]) >> 16 != STUN_BINDING_REQUEST)
		return 0;
	if (stun_attributes(scratch, p->payload_len, &stun) != UNDECIDED ||
	    server_ufrag(scratch, &stun) != UNDECIDED)
		return 0;
	asked = (const __u64 *)&scratch->ufrag;
	return asked[0] == wanted[0] && asked[1] == wanted[1] && asked[2] == wanted[2] && asked[3] == wanted[3];
}

/* Whose packet it is, as far as it can be told. Returns the VIP's number, or VIP_MAX. */
static __always_inline __u32 tell_whose(const struct packet *p, struct tap_event *event)
{
	const struct local *local = find_local(&p->dst, in_relay_range(p->dport) ? 0 : p->dport);
	const struct flow *flow = NULL;
	struct flow_key key = {};
	__u32 number, vip = VIP_MAX;
	int found;

	event->client = p->src;
	event->client_port = p->sport;
	event->direction = TAP_ELSEWHERE;
	event->session = NO_SESSION;
	if (!local || !p->dport)
		return vip;
	if (local->kind == LOCAL_VIP) {
		event->direction = TAP_TO_TRANSCEIVER;
		vip = local->number;
		key.client_addr = p->src;
		key.client_port = p->sport;
		key.vip = vip;
		found = find_once(&key, FLOW_LIVE, NULL);
		if (found < 0)
			found = find_once(&key, FLOW_PROVISIONAL, NULL);
		number = found;
		if (found >= 0)
			flow = bpf_map_lookup_elem(&flows_v2, &number);
	} else if (local->kind == LOCAL_RELAY) {
		event->direction = TAP_TO_CLIENT;
		number = record_number(local->number, p->dport);
		flow = bpf_map_lookup_elem(&flows_v2, &number);
		if (!flow)
			return vip;
		event->client = flow->client_addr;
		event->client_port = flow->client_port;
		vip = flow->vip;
	}
	if (flow)
		event->session = flow->session;
	return vip;
}

/* Whether a tap wants to see it. A function of its own to the verifier, which goes through it once. */
__noinline int tap_wants(struct xdp_md *ctx, const struct packet *p, const struct tap_event *event,
			 const struct tap *tap, __u32 vip)
{
	if (!p || !event || !tap || *(const volatile __u64 *)&tap->until <= now_ns())
		return 0;
	if (!(tap->reasons[event->reason >> 6 & 1] >> (event->reason & 63) & 1))
		return 0;
	if (tap->match & TAP_MATCH_CLIENT &&
	    (!same_address(&event->client, &tap->client) ||
	     (tap->client_port && tap->client_port != event->client_port)))
		return 0;
	if (tap->match & TAP_MATCH_VIP && vip != tap->vip)
		return 0;
	if (tap->match & TAP_MATCH_UFRAG && (event->session == NO_SESSION || event->session != tap->session) &&
	    !asks_for(ctx, p, tap))
		return 0;
	return tap->sample < 2 || bpf_get_prandom_u32() % tap->sample == 0;
}

/* Tells all who want to know of it. */
__noinline int tap_after(struct xdp_md *ctx, const struct packet *p, __u32 reason)
{
	__u32 zero = 0, i, vip, cpu = bpf_get_smp_processor_id();
	struct tap_event *event = bpf_map_lookup_elem(&tap_event_v1, &zero);
	struct taps *taps = bpf_map_lookup_elem(&taps_v1, &zero);
	__u64 length;

	if (!p || !event || !taps || !event->head_length || cpu >= TAP_CPUS)
		return 0;
	event->time = bpf_ktime_get_ns();
	event->reason = reason;
	event->ifindex = ctx->ingress_ifindex;
	event->egress = is_forward(reason) ? p->egress : 0;
	vip = tell_whose(p, event);
	for (i = 0; i < TAP_MAX; i++) {
		struct tap *tap = &taps->taps[i];

		if (!tap_wants(ctx, p, event, tap, vip))
			continue;
		length = event->length < tap->snap ? event->length : tap->snap;
		if (bpf_perf_event_output(ctx, &tap_rings_v1, (__u64)(i * TAP_CPUS + cpu) | length << 32, event,
					  sizeof(*event)) == TAP_NO_ROOM)
			__sync_fetch_and_add(&tap->lost, 1);
	}
	event->head_length = 0;
	return 0;
}

#endif
