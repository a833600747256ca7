/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What a flood may cost. Three budgets, each a token bucket kept as one number:
 * the time at which the bucket would be full again (the "virtual scheduling"
 * form of the generic cell rate algorithm, ITU-T I.371). An interval of 0
 * switches a budget off. Races between CPUs let a few packets more pass.
 */
#ifndef EARSHOT_BUDGET_H
#define EARSHOT_BUDGET_H

#include "clock.h"
#include "maps.h"
#include "parse.h"

/* Whether the last token has been taken. */
static __always_inline int spent(__u64 full_at, __u64 burst, __u64 now)
{
	return full_at > now && full_at - now > burst;
}

/* Takes one token; 0 where there is none. */
static __always_inline int take(__u64 *full_at, __u64 interval, __u64 burst, __u64 now)
{
	if (spent(*full_at, burst, now))
		return 0;
	*full_at = (*full_at > now ? *full_at : now) + interval;
	return 1;
}

/*
 * The cell of a source, a /32 or a /64. NH as in index.h, with a key of its own:
 * nobody outside knows who shares a cell with whom.
 */
static __always_inline __u32 source_cell(const struct packet *p)
{
	const volatile __u32 *key = settings.layout.hash_key;
	__u32 upper = p->src.words[p->family == IPV4 ? 3 : 0], lower = p->family == IPV4 ? 0 : p->src.words[1];
	__u64 h = (__u64)(upper + key[6]) * (lower + key[7]);

	return ((h ^ h >> 32) * 0x9e3779b97f4a7c15) >> 48;
}

_Static_assert(SOURCE_CELLS == 1 << 16, "the hash keeps the upper 16 bits");

/*
 * For requests that no flow answers for. Exempt prefixes are looked up last, for
 * sources that have spent theirs.
 */
static __always_inline enum reason charge_source(const struct packet *p)
{
	struct prefix_key exempt = { .bits = 128, .addr = p->src };
	__u32 cell = source_cell(p);
	__u64 *full_at;

	if (!settings.source_interval)
		return UNDECIDED;
	full_at = bpf_map_lookup_elem(&sources_v2, &cell);
	if (!full_at)
		return REASON_ABORTED_BAD_NUMBER;
	if (take(full_at, settings.source_interval, settings.source_burst, now_ns()) ||
	    bpf_map_lookup_elem(&exempt_v1, &exempt))
		return UNDECIDED;
	return REASON_DROP_SOURCE_BUDGET;
}

/* A session's budget, where it could not have another flow anyway: no need to check its requests for one. */
static __always_inline int session_spent(const __u64 *full_at)
{
	return settings.session_interval && spent(*full_at, settings.session_burst, now_ns());
}

/*
 * For new records, against whoever does know a secret, or has overheard a good
 * request: MESSAGE-INTEGRITY does not cover where it comes from. A bucket for
 * each session, so that one cannot fill the table, and then one for the CPU.
 */
static __always_inline enum reason charge_binding(__u64 *of_session)
{
	__u64 now = now_ns(), *full_at;
	__u32 zero = 0;

	if (settings.session_interval &&
	    !take(of_session, settings.session_interval, settings.session_burst, now))
		return REASON_DROP_SESSION_BUDGET;
	full_at = bpf_map_lookup_elem(&bindings_v1, &zero);
	if (full_at && settings.binding_interval &&
	    !take(full_at, settings.binding_interval, settings.binding_burst, now))
		return REASON_DROP_BINDING_BUDGET;
	return UNDECIDED;
}

#endif
