/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The time, for ages and budgets: CLOCK_MONOTONIC, as of the kernel's last tick.
 *
 * bpf_ktime_get_coarse_ns() would say the same, by a call of 15 to 19 ns for each
 * packet. The verifier makes a single load of bpf_jiffies64(). How long a jiffy is
 * and when they began to be counted is not for programs to know, so the daemon
 * measures it (control/jiffies.py) before it loads this one.
 */
#ifndef EARSHOT_CLOCK_H
#define EARSHOT_CLOCK_H

#include "maps.h"

/* Nanoseconds; ahead of the clock itself by microseconds at the most, and little more than a jiffy behind it. */
static __always_inline __u64 now_ns(void)
{
	return bpf_jiffies64() * settings.jiffy_ns - settings.jiffy_offset;
}

/* What flow.last_seen counts. */
static __always_inline __u32 now_ticks(void)
{
	return now_ns() >> FLOW_TICK_SHIFT;
}

#endif
