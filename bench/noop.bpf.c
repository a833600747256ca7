// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* What the relay is measured beside: the least that a program which touches its packet can do. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Sends a packet back: swaps MACs, addresses and ports, and takes one off the TTL. No map. */
SEC("xdp")
int noop(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct udphdr *udp;
	__u8 mac[ETH_ALEN];
	__be16 port;
	__u32 swap;
	int i;

	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return XDP_ABORTED;
		swap = ip->saddr;
		ip->saddr = ip->daddr;
		ip->daddr = swap;
		ip->ttl--;
		ip->check += bpf_htons(0x0100);
	} else {
		struct ipv6hdr *ip = (void *)(eth + 1);

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return XDP_ABORTED;
		for (i = 0; i < 4; i++) {
			swap = ip->saddr.s6_addr32[i];
			ip->saddr.s6_addr32[i] = ip->daddr.s6_addr32[i];
			ip->daddr.s6_addr32[i] = swap;
		}
		ip->hop_limit--;
	}
	port = udp->source;
	udp->source = udp->dest;
	udp->dest = port;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	return XDP_TX;
}

/* Nothing at all: with the driver in front of it, what the driver costs. */
SEC("xdp")
int nothing(struct xdp_md *ctx)
{
	return ctx ? XDP_TX : XDP_ABORTED;
}

char LICENSE[] SEC("license") = "GPL";
