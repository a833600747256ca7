/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which of the host's addresses and ports are ours, and which are not. */
#ifndef EARSHOT_LOCAL_H
#define EARSHOT_LOCAL_H

#include "maps.h"
#include "parse.h"

_Static_assert(LOCAL_SLOTS == 64, "the hash keeps the upper 6 bits");

static __always_inline int in_relay_range(__be16 port)
{
	return (__u16)(bpf_ntohs(port) - settings.layout.port_min) <
	       settings.layout.span;
}

/*
 * control/local_table.py computes the same hash, and finds a seed that leaves each
 * entry a slot of its own.
 */
static __always_inline const struct local *find_local(const struct address *addr, __be16 port)
{
	__u32 zero = 0, mix;
	const struct locals *locals = bpf_map_lookup_elem(&locals_v2, &zero);
	const struct local *local;

	if (!locals)
		return NULL;
	mix = addr->words[0] * 3 + addr->words[1] * 5 + addr->words[2] * 7 + addr->words[3] + port;
	local = &locals->slots[(mix * locals->seed) >> 26];
	if (local->kind == LOCAL_NONE || local->port != port || !same_address(&local->addr, addr))
		return NULL;
	return local;
}

/*
 * The local that a packet is for, or NULL. Where the port cannot be told (a
 * later fragment, a header cut short), an address of ours is enough.
 */
static __always_inline const struct local *local_of(const struct packet *p, enum reason parsed)
{
	const struct local *local;

	if (p->dport == 0)
		return parsed == UNDECIDED ? NULL : find_local(&p->dst, 0);
	local = find_local(&p->dst, in_relay_range(p->dport) ? 0 : p->dport);
	if (!local || local->kind == LOCAL_OWN)
		return NULL;
	return local;
}

/* Why a packet that no flow claims is dropped: a made-up source is told apart. */
static __always_inline enum reason unclaimed(const struct packet *p, enum reason reason)
{
	return find_local(&p->src, 0) ? REASON_DROP_SPOOFED_SOURCE : reason;
}

#endif
