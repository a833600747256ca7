/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Ethernet, IP and UDP. Both families come out as one struct packet; nothing
 * after this file asks which it was, except to write the header back.
 *
 * Bounds: every pointer made here or in rewrite.h starts at ctx->data, has an
 * offset that the verifier knows a maximum of, and is compared with
 * ctx->data_end before it is used. Packet bytes that are needed later are
 * copied into struct packet; no packet pointer outlives its function.
 */
#ifndef EARSHOT_PARSE_H
#define EARSHOT_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/* No verdict yet. */
#define UNDECIDED REASON_MAX

#define IPV4 0
#define IPV6 1
#define IPV4_UDP_OFFSET (ETH_HLEN + sizeof(struct iphdr))
#define IPV6_UDP_OFFSET (ETH_HLEN + sizeof(struct ipv6hdr))

#define IPV4_FRAGMENT_BITS 0x3fff /* more fragments, and the offset (RFC 791) */
#define IPV6_EXTENSIONS_MAX 6	  /* a longer chain on its way to us is dropped */

struct packet {
	struct address src;
	struct address dst;
	__be16 sport;
	__be16 dport;	   /* 0: cannot be told */
	__u32 ip_len;	   /* of the IP packet, header included; 0: there is none */
	__u16 udp_len;	   /* as the UDP header says */
	__u16 payload_len; /* set by check_packet() */
	__u8 family;	   /* IPV4 or IPV6, also the index in session.backend */
	__u8 first;	   /* first byte of the payload */
	__u8 ttl;	   /* or hop limit */
	__be16 checksum;   /* of UDP */
	__u32 egress;	   /* set by rewrite.h: ifindex to leave by */
};

static __always_inline __u32 udp_offset(const struct packet *p)
{
	return p->family == IPV4 ? IPV4_UDP_OFFSET : IPV6_UDP_OFFSET;
}

static __always_inline void map_ipv4(struct address *to, __be32 from)
{
	to->words[0] = 0;
	to->words[1] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = from;
}

static __always_inline void copy_address(struct address *to, const void *from)
{
	const __u32 *words = from;

	to->words[0] = words[0];
	to->words[1] = words[1];
	to->words[2] = words[2];
	to->words[3] = words[3];
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return !((a->words[3] ^ b->words[3]) | (a->words[2] ^ b->words[2]) |
		 (a->words[1] ^ b->words[1]) | (a->words[0] ^ b->words[0]));
}

/* Ports, UDP length and first payload byte, wherever the UDP header stands. */
static __always_inline enum reason parse_udp(struct xdp_md *ctx, struct packet *p, __u32 offset)
{
	void *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = (void *)(long)ctx->data + offset;

	if ((void *)(udp + 1) > end)
		return REASON_DROP_TRUNCATED;
	p->sport = udp->source;
	p->dport = udp->dest;
	p->udp_len = bpf_ntohs(udp->len);
	p->checksum = udp->check;
	if ((void *)(udp + 1) + 1 <= end)
		p->first = *(__u8 *)(udp + 1);
	return UNDECIDED;
}

/*
 * IPv4 with options. The header is at most 60 bytes long; the ports behind it
 * tell whether the packet is ours to drop.
 */
static __always_inline enum reason parse_ipv4_options(struct xdp_md *ctx, struct packet *p, __u8 header_words)
{
	if (header_words < 5)
		return REASON_PASS_NOT_IP;
	parse_udp(ctx, p, ETH_HLEN + (header_words & 15) * 4);
	return REASON_DROP_IP_OPTIONS;
}

static __always_inline enum reason parse_ipv4(struct xdp_md *ctx, struct packet *p)
{
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return REASON_PASS_NOT_IP;
	p->ip_len = bpf_ntohs(ip->tot_len);
	if (ip->protocol != IPPROTO_UDP)
		return REASON_PASS_NOT_UDP;
	p->family = IPV4;
	p->ttl = ip->ttl;
	map_ipv4(&p->src, ip->saddr);
	map_ipv4(&p->dst, ip->daddr);

	if (ip->frag_off & bpf_htons(IPV4_FRAGMENT_BITS)) {
		/* Only the first fragment has a UDP header. */
		if (!(ip->frag_off & bpf_htons(0x1fff)) && ip->ihl == 5)
			parse_udp(ctx, p, IPV4_UDP_OFFSET);
		return REASON_DROP_FRAGMENT;
	}
	if (ip->ihl != 5)
		return parse_ipv4_options(ctx, p, ip->ihl);
	return parse_udp(ctx, p, IPV4_UDP_OFFSET);
}

/* What may stand between an IPv6 header and UDP. */
static __always_inline int is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_MH || next == IPPROTO_AH || next == IPPROTO_FRAGMENT;
}

/*
 * Walks the extension headers (RFC 8200, 4) to learn whether UDP is behind
 * them: what is not UDP is not ours, whatever it carries in front. Not inlined:
 * rare, and a loop that the hot path should not be verified with.
 */
__noinline int parse_ipv6_extensions(struct xdp_md *ctx, struct packet *p)
{
	__u32 offset = IPV6_UDP_OFFSET;
	__u8 header[8], next;
	int i;

	if (!p || bpf_xdp_load_bytes(ctx, ETH_HLEN + 6, &next, 1))
		return REASON_PASS_NOT_IP;

	for (i = 0; i <= IPV6_EXTENSIONS_MAX; i++) {
		if (next == IPPROTO_UDP) {
			__be16 ports[2];

			if (!bpf_xdp_load_bytes(ctx, offset, ports, sizeof(ports))) {
				p->sport = ports[0];
				p->dport = ports[1];
			}
			return REASON_DROP_IPV6_EXTENSION;
		}
		if (!is_extension(next))
			return REASON_PASS_NOT_UDP;
		if (i == IPV6_EXTENSIONS_MAX)
			break;
		if (bpf_xdp_load_bytes(ctx, offset, header, sizeof(header)))
			return REASON_DROP_TRUNCATED;
		if (next == IPPROTO_FRAGMENT) {
			__be16 ports[2];

			if (is_extension(header[0]))
				return REASON_DROP_FRAGMENT;
			if (header[0] != IPPROTO_UDP)
				return REASON_PASS_NOT_UDP;
			/* Offset 0, with more to come or not (RFC 6946): the ports are here. */
			if (!(header[2] | (header[3] & 0xf8)) &&
			    !bpf_xdp_load_bytes(ctx, offset + 8, ports, sizeof(ports))) {
				p->sport = ports[0];
				p->dport = ports[1];
			}
			return REASON_DROP_FRAGMENT;
		}
		offset += next == IPPROTO_AH ? (header[1] + 2) * 4 : (header[1] + 1) * 8;
		next = header[0];
	}
	return REASON_DROP_IPV6_EXTENSION;
}

static __always_inline enum reason parse_ipv6(struct xdp_md *ctx, struct packet *p)
{
	void *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return REASON_PASS_NOT_IP;
	p->family = IPV6;
	p->ttl = ip->hop_limit;
	p->ip_len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	copy_address(&p->src, &ip->saddr);
	copy_address(&p->dst, &ip->daddr);
	/* ::/32 holds the IPv4-mapped addresses, by which the maps mean IPv4 alone. */
	if (!p->dst.words[0])
		return REASON_PASS_NOT_OURS;
	if (ip->nexthdr != IPPROTO_UDP)
		return parse_ipv6_extensions(ctx, p);
	return parse_udp(ctx, p, IPV6_UDP_OFFSET);
}

/*
 * Returns UNDECIDED, a PASS, or the DROP that is due *if the packet turns out
 * to be ours*; for that, p->dport is 0 where it cannot be told.
 */
static __always_inline enum reason parse(struct xdp_md *ctx, struct packet *p)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > end)
		return REASON_PASS_NOT_IP;
	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP):
		return parse_ipv4(ctx, p);
	case bpf_htons(ETH_P_IPV6):
		return parse_ipv6(ctx, p);
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
		/* The host's: a VLAN's own link has the program where its tag is off already. */
		return REASON_PASS_VLAN;
	default:
		return REASON_PASS_NOT_IP;
	}
}

/* Once the packet is known to be ours: do its lengths agree, and may it travel on? */
static __always_inline enum reason check_packet(struct xdp_md *ctx, struct packet *p)
{
	void *end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	__u32 headers = udp_offset(p) - ETH_HLEN;

	/* An Ethernet frame may be padded, so it may be longer, never shorter. */
	if (data + ETH_HLEN + p->ip_len > end)
		return REASON_DROP_TRUNCATED;
	if (p->udp_len < sizeof(struct udphdr) || p->udp_len + headers != p->ip_len)
		return REASON_DROP_BAD_LENGTH;
	p->payload_len = p->udp_len - sizeof(struct udphdr);
	if (!p->payload_len)
		return REASON_DROP_EMPTY;
	if (p->ttl <= 1)
		return REASON_DROP_TTL;
	if (p->family == IPV6 && !p->checksum) /* RFC 8200, 8.1 */
		return REASON_DROP_IPV6_NO_CHECKSUM;
	return UNDECIDED;
}

#endif
