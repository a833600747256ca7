/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What a flood may cost. Three budgets, each a token bucket kept as one number:
 * the time at which the bucket would be full again (the "virtual scheduling"
 * form of the generic cell rate algorithm, ITU-T I.371). An interval of 0
 * switches a budget off. Races between CPUs let a few packets more pass.
 */
#ifndef EARSHOT_BUDGET_H
#define EARSHOT_BUDGET_H

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
 * For requests that no flow answers for: a bucket for each source, a /32 or a
 * /64. Exempt prefixes are looked up last, for sources that have spent theirs.
 */
static __always_inline enum reason charge_source(const struct packet *p)
{
	__u64 now = bpf_ktime_get_coarse_ns(), first, *full_at;
	struct prefix_key exempt = { .bits = 128, .addr = p->src };
	struct address source = p->src;

	if (!settings.source_interval)
		return UNDECIDED;
	if (p->family == IPV6)
		source.words[2] = source.words[3] = 0;
	full_at = bpf_map_lookup_elem(&sources_v1, &source);
	if (!full_at) {
		first = now + settings.source_interval;
		bpf_map_update_elem(&sources_v1, &source, &first, BPF_ANY);
		return UNDECIDED;
	}
	if (take(full_at, settings.source_interval, settings.source_burst, now) ||
	    bpf_map_lookup_elem(&exempt_v1, &exempt))
		return UNDECIDED;
	return REASON_DROP_SOURCE_BUDGET;
}

/* A session that could not have another flow anyway: no need to check its requests for one. */
static __always_inline int session_spent(const struct session *session)
{
	return settings.session_interval &&
	       spent(session->full_at, settings.session_burst, bpf_ktime_get_coarse_ns());
}

/*
 * For new records, against whoever does know a secret, or has overheard a good
 * request: MESSAGE-INTEGRITY does not cover where it comes from. A bucket for
 * each session, so that one cannot fill the table, and then one for the CPU.
 * The session's ufrag is in scratch since it was looked up there.
 */
static __always_inline enum reason charge_binding(void)
{
	__u64 now = bpf_ktime_get_coarse_ns(), *full_at;
	struct session *session;
	struct scratch *scratch;
	__u32 zero = 0;

	scratch = bpf_map_lookup_elem(&scratch_v1, &zero);
	session = scratch ? bpf_map_lookup_elem(&sessions_v1, &scratch->ufrag) : NULL;
	if (session && settings.session_interval &&
	    !take(&session->full_at, settings.session_interval, settings.session_burst, now))
		return REASON_DROP_SESSION_BUDGET;
	full_at = bpf_map_lookup_elem(&bindings_v1, &zero);
	if (full_at && settings.binding_interval &&
	    !take(full_at, settings.binding_interval, settings.binding_burst, now))
		return REASON_DROP_BINDING_BUDGET;
	return UNDECIDED;
}

#endif
