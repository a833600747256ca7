/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Writing the packet: addresses, ports, checksums, TTL, MACs. Never its length,
 * never the ToS byte (checks carry the DSCP of the media).
 */
#ifndef EARSHOT_REWRITE_H
#define EARSHOT_REWRITE_H

#include "checksum.h"
#include "maps.h"
#include "parse.h"

struct rewrite {
	const struct address *src;
	const struct address *dst;
	__be16 sport;
	__be16 dport;
	__u16 ip_delta;
	__u16 udp_delta;
	__u32 hop;
};

static __always_inline enum reason rewrite(struct xdp_md *ctx, struct packet *p, const struct rewrite *r)
{
	void *end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct ethhdr *eth = data;
	struct udphdr *udp;
	const struct hop *hop;
	__u32 number = r->hop;

	hop = bpf_map_lookup_elem(&hops_v1, &number);
	if (!hop)
		return REASON_ABORTED_BAD_NUMBER;
	if (!hop->resolved)
		return REASON_DROP_HOP_UNRESOLVED;
	if (p->ip_len > hop->mtu)
		return REASON_DROP_TOO_BIG;

	if (p->family == IPV4) {
		struct iphdr *ip = data + ETH_HLEN;

		udp = data + IPV4_UDP_OFFSET;
		if ((void *)(udp + 1) > end)
			return REASON_DROP_TRUNCATED;
		/* ---- the first byte is written: from here on forward, or ABORTED ---- */
		ip->ttl--;
		ip->saddr = r->src->words[3];
		ip->daddr = r->dst->words[3];
		ip->check = adjust(ip->check, r->ip_delta + TTL_DELTA);
		if (udp->check) { /* 0: the sender made none (RFC 768), so it stays */
			__u16 check = adjust(udp->check, r->udp_delta);

			udp->check = check ? check : 0xffff;
		}
	} else {
		struct ipv6hdr *ip = data + ETH_HLEN;
		__u16 check;

		udp = data + IPV6_UDP_OFFSET;
		if ((void *)(udp + 1) > end)
			return REASON_DROP_TRUNCATED;
		/* ---- the first byte is written: from here on forward, or ABORTED ---- */
		ip->hop_limit--;
		copy_address((struct address *)&ip->saddr, r->src);
		copy_address((struct address *)&ip->daddr, r->dst);
		check = adjust(udp->check, r->udp_delta);
		udp->check = check ? check : 0xffff;
	}
	udp->source = r->sport;
	udp->dest = r->dport;
	__builtin_memcpy(eth->h_dest, hop->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, hop->smac, ETH_ALEN);
	p->egress = hop->ifindex;
	return UNDECIDED;
}

#endif
