/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The next hop towards a client, looked up in the kernel's FIB when a flow is
 * bound or its client asks again, never for media.
 */
#ifndef EARSHOT_HOP_H
#define EARSHOT_HOP_H

#include "maps.h"
#include "parse.h"

#define AF_INET 2
#define AF_INET6 10
/*
 * bpf_fib_lookup() refuses an ingress device that does not forward. The host
 * need not be a router, so the look-up starts at lo, where alone the daemon
 * turns forwarding on: what comes from lo is what the host sends itself.
 */
#define LO_IFINDEX 1

/* A new hop. Returns its number, or 0 with *failed set. */
static __always_inline __u32 new_hop(const struct hop_key *key, const __u8 *dmac,
				     __u16 resolved, enum reason *failed)
{
	const struct link_info *link;
	struct hop *hop;
	__u32 number, *other;

	link = bpf_map_lookup_elem(&links_v1, &key->ifindex);
	if (!link) {
		/* The route leaves by a link that we are not attached to. */
		*failed = REASON_DROP_UNROUTABLE;
		return 0;
	}
	if (bpf_map_pop_elem(&free_hops_v1, &number)) {
		*failed = REASON_DROP_HOPS_FULL;
		return 0;
	}
	hop = bpf_map_lookup_elem(&hops_v1, &number);
	if (!hop) {
		*failed = REASON_ABORTED_BAD_NUMBER;
		return 0;
	}
	__builtin_memcpy(hop->dmac, dmac, ETH_ALEN);
	__builtin_memcpy(hop->smac, link->mac, ETH_ALEN);
	hop->mtu = link->mtu;
	hop->ifindex = key->ifindex;
	hop->resolved = resolved;
	if (bpf_map_update_elem(&hop_index_v1, key, &number, BPF_NOEXIST)) {
		/* Another CPU entered the same neighbour first: use its. */
		hop->resolved = 0;
		hop->ifindex = 0;
		bpf_map_push_elem(&free_hops_v1, &number, 0);
		other = bpf_map_lookup_elem(&hop_index_v1, key);
		if (other)
			return *other;
		*failed = REASON_DROP_HOPS_FULL;
		return 0;
	}
	return number;
}

static __always_inline int same_hop(const struct hop_key *a, const struct hop_key *b)
{
	return same_address(&a->neighbour, &b->neighbour) && a->ifindex == b->ifindex;
}

/*
 * The number of the hop towards p->src, or a negative reason. Not inlined: the
 * stack that it takes is given back when the flow is bound.
 */
__noinline int client_hop(struct xdp_md *ctx, const struct packet *p)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct bpf_fib_lookup fib = {};
	struct hop_key key = {};
	__u8 dmac[ETH_ALEN] = {};
	enum reason failed = REASON_DROP_HOP_UNRESOLVED;
	__u16 resolved = 0;
	__u32 *number, made, taken_back, zero = 0;
	struct last_hop *last;
	const struct hop *state;
	int result;

	if (!p)
		return -REASON_ABORTED_BAD_NUMBER;
	fib.l4_protocol = IPPROTO_UDP;
	fib.ifindex = LO_IFINDEX;
	if (p->family == IPV4) {
		fib.family = AF_INET;
		fib.ipv4_src = p->dst.words[3];
		fib.ipv4_dst = p->src.words[3];
	} else {
		fib.family = AF_INET6;
		copy_address((struct address *)fib.ipv6_src, &p->dst);
		copy_address((struct address *)fib.ipv6_dst, &p->src);
	}
	result = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH) {
		return -REASON_DROP_UNROUTABLE;
	}

	/* The kernel has put the gateway, if there is one, in place of the destination. */
	key.ifindex = fib.ifindex;
	if (fib.family == AF_INET)
		map_ipv4(&key.neighbour, fib.ipv4_dst);
	else
		copy_address(&key.neighbour, fib.ipv6_dst);
	last = bpf_map_lookup_elem(&last_hop_v1, &zero);
	state = bpf_map_lookup_elem(&hops_v1, &zero);
	if (!last || !state)
		return -REASON_ABORTED_BAD_NUMBER;
	/* Before the index is read: what is taken back after that makes the memory of it void. */
	taken_back = *(volatile __u32 *)&state->taken_back;
	if (last->number && last->taken_back == taken_back && same_hop(&last->key, &key))
		return last->number;
	number = bpf_map_lookup_elem(&hop_index_v1, &key);
	if (number) {
		last->key = key;
		last->number = *number;
		last->taken_back = taken_back;
		return *number;
	}

	if (result == BPF_FIB_LKUP_RET_SUCCESS) {
		__builtin_memcpy(dmac, fib.dmac, ETH_ALEN);
		resolved = HOP_RESOLVED;
	} else if (fib.ifindex == ctx->ingress_ifindex && (void *)(eth + 1) <= end) {
		/*
		 * The kernel does not know the neighbour yet. The packet has just come
		 * from it, or from a router beside it: good for the answer, until the
		 * daemon has asked.
		 */
		__builtin_memcpy(dmac, eth->h_source, ETH_ALEN);
		resolved = HOP_PROVISIONAL;
	}
	made = new_hop(&key, dmac, resolved, &failed);
	return made ? (int)made : -(int)failed;
}

#endif
