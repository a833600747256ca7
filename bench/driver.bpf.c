// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Gives a program under test another packet each time it runs.
 *
 * A test run repeats one packet and does not reset it. So this program writes
 * what differs from flow to flow (addresses, ports, TTL) into the packet, and
 * tail-calls what is measured. It computes the flow instead of looking it up, so
 * that it needs no memory of its own, which would push out the program's; its
 * random state travels in the last eight bytes of the frame, behind the IP packet,
 * where Ethernet's padding is.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Alone in .rodata, set by driver.py before it loads. */
struct settings {
	__u32 ipv6;	 /* 0: IPv4 */
	__u32 up;	 /* of 256 packets, how many go to the VIP; the others to a relay port */
	__u32 in_turn;	 /* 1: each flow once, in order; 0: any flow, uniformly */
	__u32 scatter;	 /* 1: clients anywhere among 2^24 addresses, and at any port */
	__u32 noise;	 /* 1: the first byte of the payload is any */
	__u32 stride;	 /* not 0: each flow once a round, in steps of so many, and packets numbered by rounds */
	__u32 state_at;	 /* offset of the state in the frame */
	__u32 relays;	 /* flows are this many relay addresses ... */
	__u32 span;	 /* ... times this many ports */
	__u32 backends;	 /* a power of two */
	__u32 client[4]; /* addresses of number 0, big-endian; only the first word of IPv4 */
	__u32 relay[4];
	__u32 backend[4];
	__u32 vip[4];
	__be16 vip_port;
	__be16 backend_port;
	__u16 port_min;
	__u16 client_port_min;
};
const volatile struct settings settings = { .relays = 1 };

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 1);
} under_test SEC(".maps");

/* The address of a number, counted from a base in the last 32 bits. */
static __always_inline void put_address(__u32 *to, const volatile __u32 *base, __u32 number)
{
	if (settings.ipv6) {
		to[0] = base[0];
		to[1] = base[1];
		to[2] = base[2];
		to[3] = bpf_htonl(bpf_ntohl(base[3]) + number);
	} else {
		to[0] = bpf_htonl(bpf_ntohl(base[0]) + number);
	}
}

/*
 * The state is where the walk is, in its lower half, and the round that it is in.
 * Where both ways are mixed, they alternate from round to round, for each flow.
 */
static __always_inline __u32 walk(__u64 *state, __u8 *rtp, __u32 *up)
{
	__u32 at = *state, round = *state >> 32, flows = settings.relays * settings.span, number = round;

	at += settings.stride;
	if (at >= flows)
		at -= flows;
	if (!at)
		round++;
	*state = (__u64)round << 32 | at;
	*up = settings.up;
	if (settings.up && settings.up < 256) {
		*up = (round + at) & 1 ? 256 : 0;
		number = round / 2;
	}
	*(__be16 *)(rtp + 2) = bpf_htons(number);
	*(__be32 *)(rtp + 4) = bpf_htonl(number * 960);
	return at;
}

SEC("xdp")
int drive(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 header = settings.ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct udphdr *udp = data + ETH_HLEN + header;
	__u64 *state = data + settings.state_at;
	__u32 *src, *dst, random, relay, port, record, up = settings.up;

	if ((void *)(state + 1) > end || (void *)(udp + 1) + 12 > end)
		return XDP_ABORTED;
	if (settings.stride) {
		random = 0;
		record = walk(state, (__u8 *)(udp + 1), &up);
		relay = record / settings.span;
		port = record - relay * settings.span;
	} else if (settings.in_turn) {
		random = 0;
		relay = 0;
		port = (*state)++;
		record = port;
	} else {
		/* A linear congruential generator; the upper half of its state is random enough. */
		*state = *state * 6364136223846793005ull + 1442695040888963407ull;
		random = *state >> 32;
		relay = ((random >> 16) * settings.relays) >> 16;
		port = ((random & 0xffff) * settings.span) >> 16;
		record = relay * settings.span + port;
	}
	if (settings.ipv6) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		ip->hop_limit = 64;
		src = (__u32 *)&ip->saddr;
		dst = (__u32 *)&ip->daddr;
	} else {
		struct iphdr *ip = data + ETH_HLEN;

		ip->ttl = 64;
		src = &ip->saddr;
		dst = &ip->daddr;
	}
	if (settings.noise)
		*(__u8 *)(udp + 1) = *state >> 20;
	if (settings.scatter) {
		put_address(src, settings.client, random & 0xffffff);
		put_address(dst, settings.vip, 0);
		udp->source = bpf_htons(settings.client_port_min + (random >> 24));
		udp->dest = settings.vip_port;
	} else if (settings.stride ? up : (__u8)(*state >> 24) < settings.up) {
		put_address(src, settings.client, record);
		put_address(dst, settings.vip, 0);
		udp->source = bpf_htons(settings.client_port_min + (record & 0x3fff));
		udp->dest = settings.vip_port;
	} else {
		put_address(src, settings.backend, record & (settings.backends - 1));
		put_address(dst, settings.relay, relay);
		udp->source = settings.backend_port;
		udp->dest = bpf_htons(settings.port_min + port);
	}
	bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

char LICENSE[] SEC("license") = "GPL";
