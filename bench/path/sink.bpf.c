// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Where load ends: counts what came as it should have, and what did not. At the transceivers it sends probes
 * back; at the clients it says how long they have been under way. What is not the generator's (TURN's
 * messages, neighbour discovery) passes.
 */
#include "wire.h"

/* Alone in .rodata, set by traffic.py before it loads. */
struct settings {
	struct end src; /* what a packet must carry, by the number of its flow */
	struct end dst;
	__u32 ipv6;
	__u32 flows;
	__u32 tag_bytes;
	__u32 any_port; /* 1: the source port may be any */
	__u32 echo;	/* 1: probes go back */
	__u32 pass_on;	/* 1: what was right passes, for a test to look at */
};
const volatile struct settings settings = { .flows = 1 };

struct counts {
	__u64 right;
	__u64 wrong; /* another address, port or flow than should be */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counts);
	__uint(max_entries, 1);
} counts SEC(".maps");

#define SAMPLES_MAX 65536

/* Round trips in nanoseconds; the first entry is how many there are. 64 bits: an array's stride in memory. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1 + SAMPLES_MAX);
} round_trips SEC(".maps");

static __always_inline void note(__u64 sent)
{
	__u32 index = 0;
	__u64 *value = bpf_map_lookup_elem(&round_trips, &index);

	if (!value)
		return;
	index = 1 + __sync_fetch_and_add(value, 1);
	value = bpf_map_lookup_elem(&round_trips, &index);
	if (value)
		*value = bpf_ktime_get_ns() - sent;
}

static __always_inline int send_back(struct xdp_md *ctx, struct ethhdr *eth, struct udphdr *udp)
{
	__u8 mac[ETH_ALEN];
	__be16 port = udp->source;
	__u32 swap;
	int i;

	udp->source = udp->dest;
	udp->dest = port;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	if (settings.ipv6) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		for (i = 0; i < 4; i++) {
			swap = ip->saddr.s6_addr32[i];
			ip->saddr.s6_addr32[i] = ip->daddr.s6_addr32[i];
			ip->daddr.s6_addr32[i] = swap;
		}
		ip->hop_limit = 64;
	} else {
		struct iphdr *ip = (void *)(eth + 1);
		__u16 *ttl = (void *)&ip->ttl;
		__u32 sum = (__u16)~ip->check + (__u16)~*ttl;

		swap = ip->saddr;
		ip->saddr = ip->daddr;
		ip->daddr = swap;
		ip->ttl = 64;
		ip->check = checksum(sum + *ttl);
	}
	/* Not XDP_TX: that wakes no peer that has GRO and no program. */
	return bpf_redirect(ctx->ingress_ifindex, 0);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 header = settings.ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct ethhdr *eth = data;
	struct udphdr *udp = data + ETH_HLEN + header;
	struct rtp *rtp = (void *)(udp + 1) + settings.tag_bytes;
	__be32 src, dst, wrong = 0;
	__u32 zero = 0;
	__u8 protocol;
	struct counts *counted;

	if ((void *)(rtp + 1) > end)
		return XDP_PASS;
	if (settings.ipv6) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		protocol = eth->h_proto == bpf_htons(ETH_P_IPV6) ? ip->nexthdr : 0;
		src = ip->saddr.s6_addr32[3];
		dst = ip->daddr.s6_addr32[3];
		wrong |= ip->saddr.s6_addr32[0] ^ settings.src.address[0];
		wrong |= ip->saddr.s6_addr32[1] ^ settings.src.address[1];
		wrong |= ip->daddr.s6_addr32[0] ^ settings.dst.address[0];
		wrong |= ip->daddr.s6_addr32[1] ^ settings.dst.address[1];
	} else {
		struct iphdr *ip = data + ETH_HLEN;

		protocol = eth->h_proto == bpf_htons(ETH_P_IP) ? ip->protocol : 0;
		src = ip->saddr;
		dst = ip->daddr;
	}
	if (protocol != IPPROTO_UDP || (rtp->first != RTP_MEDIA && rtp->first != RTP_PROBE))
		return XDP_PASS;
	counted = bpf_map_lookup_elem(&counts, &zero);
	if (!counted)
		return XDP_ABORTED;
	wrong |= src ^ address_of(&settings.src, rtp->flow);
	wrong |= dst ^ address_of(&settings.dst, rtp->flow);
	wrong |= udp->dest ^ port_of(&settings.dst, rtp->flow);
	if (!settings.any_port)
		wrong |= udp->source ^ port_of(&settings.src, rtp->flow);
	if (wrong || rtp->flow >= settings.flows) {
		counted->wrong++;
		return XDP_DROP;
	}
	counted->right++;
	if (rtp->first == RTP_PROBE) {
		if (settings.echo)
			return send_back(ctx, eth, udp);
		note(rtp->sent);
	}
	return settings.pass_on ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
