// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The least that a forwarder between two links can do, which the relay is measured beside: it looks at nothing
 * but the family, and looks nothing up. It translates by constants: to the VIP becomes to the one
 * transceiver, and a client's network becomes another one, with the host part kept; and the same backwards.
 * Each header that the relay writes, it writes too: MACs, addresses, ports, both checksums, TTL.
 */
#include "wire.h"

/* One direction. Constants to the verifier and the JIT. */
struct way {
	__u64 to_prefix;   /* IPv6: the first half of the address that keeps the other */
	__be32 fixed[4];   /* the other address, whole; only the last word of IPv4 */
	__u32 to_octet;	   /* IPv4: the first byte of the address that keeps the others */
	__be16 fixed_port; /* of the other address */
	__u16 ip_delta;	   /* one's complement sums of what changes, TTL included */
	__u16 udp_delta;
	__u16 pad;
	__u32 ifindex;
	__u32 macs[3];	   /* destination and source, as they stand in the frame */
};

/* Alone in .rodata, set by candidates.py before it loads. */
struct settings {
	struct way up;	 /* what comes by clients_ifindex */
	struct way down; /* everything else */
	__u32 ipv6;
	__u32 clients_ifindex;
};
const volatile struct settings settings = {};

static __always_inline __u16 adjust(__u16 check, __u16 delta)
{
	return checksum((__u16)~check + delta);
}

static __always_inline int forward(struct xdp_md *ctx, const volatile struct way *way, int up)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct udphdr *udp;
	int i;

	if (settings.ipv6) {
		struct ipv6hdr *ip = data + ETH_HLEN;
		__be32 *fixed = (__be32 *)(up ? &ip->daddr : &ip->saddr);
		__u64 *kept = (__u64 *)(up ? &ip->saddr : &ip->daddr);

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IPV6))
			return XDP_PASS;
		*kept = way->to_prefix;
		for (i = 0; i < 4; i++)
			fixed[i] = way->fixed[i];
		ip->hop_limit--;
	} else {
		struct iphdr *ip = data + ETH_HLEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
			return XDP_PASS;
		*(__u8 *)(up ? &ip->saddr : &ip->daddr) = way->to_octet;
		*(up ? &ip->daddr : &ip->saddr) = way->fixed[3];
		ip->ttl--;
		ip->check = adjust(ip->check, way->ip_delta);
	}
	*(up ? &udp->dest : &udp->source) = way->fixed_port;
	udp->check = adjust(udp->check, way->udp_delta);
	if (!udp->check)
		udp->check = 0xffff;
	for (i = 0; i < 3; i++)
		((__u32 *)eth)[i] = way->macs[i];
	return bpf_redirect(way->ifindex, 0);
}

SEC("xdp")
int blind(struct xdp_md *ctx)
{
	if (ctx->ingress_ifindex == settings.clients_ifindex)
		return forward(ctx, &settings.up, 1);
	return forward(ctx, &settings.down, 0);
}

char LICENSE[] SEC("license") = "GPL";
