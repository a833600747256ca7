/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Flows that another relay of the group has bound: entered here, with their relay address
 * and port, so that whatever comes this way of them is forwarded as it would be there.
 *
 * A program of its own, never attached, which the daemon runs on a list of them (control/foreign.py): it is
 * no party to the protocol of flow-table.md, and enters nothing itself. Entering is binding,
 * under the same lock and by the same code; what differs is who says the record's number.
 */
#ifndef EARSHOT_FOREIGN_H
#define EARSHOT_FOREIGN_H

#include "bind.h"

static __always_inline int is_mapped(const struct address *addr)
{
	return !(addr->words[0] | addr->words[1] | (addr->words[2] ^ bpf_htonl(0xffff)));
}

/*
 * What binding would say of it. Not inlined, as all that has a packet on its stack. The
 * next hop to the client is looked up here: it is another one than its own relay has.
 */
__noinline int enter_foreign(struct xdp_md *ctx, const struct foreign *f)
{
	struct binding b = {};
	struct packet p = {};
	const struct vip *vip;
	__u32 number, vip_number;
	int hop;

	if (!f)
		return REASON_ABORTED_BAD_NUMBER;
	vip_number = f->vip;
	vip = bpf_map_lookup_elem(&vips_v1, &vip_number);
	if (!vip || !f->second)
		return REASON_ABORTED_BAD_NUMBER;
	p.src = f->client_addr;
	p.sport = f->client_port;
	p.dst = vip->addr;
	p.dport = vip->port;
	p.family = is_mapped(&p.src) ? IPV4 : IPV6;
	hop = client_hop(ctx, &p);
	if (hop < 0)
		return -hop;
	b.key.client_addr = f->client_addr;
	b.key.client_port = f->client_port;
	b.key.vip = f->vip;
	b.target.session = f->session;
	b.target.backend = f->backend;
	b.hop = hop;
	b.confirmed = 1;
	b.number = f->number;
	b.second = f->second;
	b.clock = f->clock;
	/* The verifier wants it to hold something; the compiler sees that nobody reads it. */
	*(volatile __u32 *)&number = 0;
	return bind_flow(&p, &b, &number);
}

/*
 * Runs over a list of struct foreign in place of a packet, and writes what became of each. By
 * helpers: of a pointer into the packet that lives through a loop, compilers make what
 * the verifier does not recognise.
 */
SEC("xdp")
int enter_flows(struct xdp_md *ctx)
{
	struct foreign one;
	__u32 i;

	for (i = 0; i < FOREIGN_MAX; i++) {
		if (bpf_xdp_load_bytes(ctx, i * sizeof(one), &one, sizeof(one)))
			break;
		one.outcome = enter_foreign(ctx, &one);
		if (bpf_xdp_store_bytes(ctx, i * sizeof(one), &one, sizeof(one)))
			break;
	}
	return XDP_PASS;
}

#endif
