// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Makes load: writes the headers of some flow into each frame. All of the headers, each time: frames come back
 * as their receivers left them. It computes a flow's addresses and ports instead of looking them up, so
 * that it takes no cache from what is measured; checksums are right, for those who verify them.
 *
 * generate() is run on live frames (BPF_F_TEST_XDP_LIVE_FRAMES) and sends them out by a link; drive() is run on
 * one packet over and over, and tail-calls what is measured.
 */
#include "wire.h"

#define HEAD_WORDS 11 /* of 8 bytes: the longest headers, and more */

/* Alone in .rodata, set by traffic.py before it loads. */
struct settings {
	__u64 head[HEAD_WORDS]; /* the first bytes of every frame, what differs left out */
	struct end src;
	struct end dst;
	__u32 ipv6;	  /* 0: IPv4 */
	__u32 tag_bytes;  /* before RTP */
	__u32 listed;	  /* 1: destination ports are those in the map */
	__u32 ip_sum;	  /* of the IPv4 header, addresses left out */
	__u32 udp_sum;	  /* of pseudo header, payload, and all else that does not differ */
};
const volatile struct settings settings = {};

/* Written by traffic.py between runs; each CPU goes its own way. */
struct control {
	__u64 random;	  /* state of a linear congruential generator */
	__u32 first_flow; /* flows are numbered from here on */
	__u32 flows;
	__u32 turn;
	__u32 in_turn;	  /* 1: each flow once, in order; 0: any, uniformly */
	__u32 probe_mask; /* one of so many is a probe; 0: each. All ones: none */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct control);
	__uint(max_entries, 1);
} control SEC(".maps");

/* Destination ports by flow, where no formula has them. Sized by traffic.py. 64 bits: the stride in memory. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} ports SEC(".maps");

/* The link to leave by. A map, since it may be in another namespace than who runs this. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} out SEC(".maps");

static __always_inline __u32 next_flow(struct control *state)
{
	state->random = state->random * 6364136223846793005ull + 1442695040888963407ull;
	if (state->in_turn) {
		__u32 turn = state->turn++;

		if (state->turn >= state->flows)
			state->turn = 0;
		return state->first_flow + turn;
	}
	return state->first_flow + (__u32)(((state->random >> 32) * state->flows) >> 32);
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 1);
} under_test SEC(".maps");

/* Whether it could. */
static __always_inline int write_packet(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 header = ETH_HLEN + (settings.ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct udphdr *udp = data + header;
	struct rtp *rtp = data + header + sizeof(*udp) + settings.tag_bytes;
	__u64 *words = data, sent = 0;
	__u32 zero = 0, flow, sum, i;
	__be32 src, dst, first = RTP_MEDIA;
	__be16 sport, dport;
	struct control *state = bpf_map_lookup_elem(&control, &zero);

	if (!state || (void *)(words + HEAD_WORDS) > end || (void *)(rtp + 1) > end)
		return 0;
	flow = next_flow(state);
	src = address_of(&settings.src, flow);
	dst = address_of(&settings.dst, flow);
	sport = port_of(&settings.src, flow);
	dport = port_of(&settings.dst, flow);
	if (settings.listed) {
		__u64 *port = bpf_map_lookup_elem(&ports, &flow);

		if (!port)
			return 0;
		dport = bpf_htons(*port);
	}
	if (!(((__u32)state->random >> 8) & state->probe_mask)) {
		first = RTP_PROBE;
		sent = bpf_ktime_get_ns();
	}
	/* What is behind the stamp is the same in every frame, and nobody writes there. */
	for (i = 0; i < (settings.ipv6 ? HEAD_WORDS : 9); i++)
		words[i] = settings.head[i];
	if (settings.ipv6) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		ip->saddr.s6_addr32[3] = src;
		ip->daddr.s6_addr32[3] = dst;
	} else {
		struct iphdr *ip = data + ETH_HLEN;

		ip->saddr = src;
		ip->daddr = dst;
		ip->check = checksum(settings.ip_sum + sum_word(src) + sum_word(dst));
	}
	udp->source = sport;
	udp->dest = dport;
	rtp->first = first;
	rtp->flow = flow;
	rtp->sent = sent;
	sum = settings.udp_sum + sum_word(src) + sum_word(dst) + sport + dport + sum_word(first) + sum_word(flow);
	sum += sum_word(sent) + sum_word(sent >> 32);
	udp->check = checksum(sum);
	if (!udp->check)
		udp->check = 0xffff;
	return 1;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	return write_packet(ctx) ? bpf_redirect_map(&out, 0, 0) : XDP_ABORTED;
}

SEC("xdp")
int drive(struct xdp_md *ctx)
{
	if (write_packet(ctx))
		bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

char LICENSE[] SEC("license") = "GPL";
