/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Why the last packet of a 5-tuple was dropped, for somebody who asks about one call.
 *
 * A table of fixed size on each CPU, by hash: packets can make it neither larger nor slower,
 * and no CPU writes to another's lines. What has the same place replaces what was there, and
 * what a flood has of them it has little of.
 * control/last_drop.py has the same hash.
 */
#ifndef EARSHOT_LAST_DROP_H
#define EARSHOT_LAST_DROP_H

#include "clock.h"
#include "maps.h"
#include "parse.h"

_Static_assert(LAST_DROP_PLACES == 1 << 10, "the place is the upper 10 bits of the hash");

/* As in index.h; the key is the flow table's, so that nobody outside can aim at a place. */
static __always_inline __u64 drop_hash(const struct packet *p)
{
	const volatile __u32 *k = settings.layout.hash_key;
	__u32 ports = p->sport | (__u32)p->dport << 16;
	__u64 h = (__u64)(p->src.words[0] + k[0]) * (p->src.words[1] + k[1]) +
		  (__u64)(p->src.words[2] + k[2]) * (p->src.words[3] + k[3]) +
		  (__u64)(p->dst.words[0] + k[4]) * (p->dst.words[1] + k[5]) +
		  (__u64)(p->dst.words[2] + k[6]) * (p->dst.words[3] + k[7]) +
		  (__u64)(ports + k[2]) * (k[5] | 1);

	return (h ^ h >> 32) * 0x9e3779b97f4a7c15;
}

/* Not inlined: off the hot path. */
__noinline int keep_drop(const struct packet *p, __u32 reason)
{
	struct last_drops *drops;
	struct last_drop *drop;
	__u32 zero = 0, check;
	__u64 hash;

	drops = bpf_map_lookup_elem(&last_drops_v1, &zero);
	if (!p || !drops)
		return 0;
	hash = drop_hash(p);
	drop = &drops->entries[hash >> 54];
	check = (__u32)(hash >> 22) | 1;
	if (drop->check != check || drop->reason != reason) {
		drop->check = check;
		drop->reason = reason;
		drop->packets = 0;
	}
	drop->packets++;
	drop->seen = drops->tick;
	return 0;
}

/* Of what has no ports, nothing is kept; nor of more than so many in a tick, so that a flood costs no more than this. */
static __always_inline void remember_drop(const struct packet *p, enum reason reason)
{
	__u32 zero = 0, now = now_ticks();
	struct last_drops *drops = bpf_map_lookup_elem(&last_drops_v1, &zero);

	if (!drops || !p->dport)
		return;
	if (drops->tick != now) {
		drops->tick = now;
		drops->kept = 0;
	}
	if (drops->kept >= LAST_DROPS_A_TICK)
		return;
	drops->kept++;
	keep_drop(p, reason);
}

#endif
