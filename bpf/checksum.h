/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Incremental Internet checksums (RFC 1624): HC' = ~(~HC + delta), where delta
 * is the one's complement sum of ~old and new over the words that change. The
 * sum does not care for byte order, so words are taken as they stand in memory.
 * -delta is ~delta, so a flow keeps one delta for both directions.
 */
#ifndef EARSHOT_CHECKSUM_H
#define EARSHOT_CHECKSUM_H

#include "abi.h"

/* TTL 64 -> 63, as the low byte of a word on a little-endian host. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TTL_DELTA 0xfffe
#else
#define TTL_DELTA 0xfeff
#endif

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 adjust(__u16 check, __u32 delta)
{
	return ~fold((__u16)~check + delta);
}

/* Sum of an address's words, to be folded once a few of them have been added. */
static __always_inline __u32 sum_address(const struct address *addr)
{
	__u32 sum = 0;
	int i;

	for (i = 0; i < 4; i++)
		sum += (addr->words[i] & 0xffff) + (addr->words[i] >> 16);
	return sum;
}

#endif
