/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The second half of an HMAC-SHA1 (RFC 2104), which is the same whatever the message was. */
#ifndef EARSHOT_HMAC_H
#define EARSHOT_HMAC_H

#include "sha1.h"

#define SHA1_BLOCK 64
#define SHA1_DIGEST 20

/* The outer hash, over the inner one in scratch->state, into its place. `outer`: the state after the key's block. */
static __always_inline void hmac_outer(struct scratch *scratch, const __u32 *outer)
{
	int i;

	SHA1_PAIR(0) = scratch->state[0] | (__u64)scratch->state[1] << 32;
	SHA1_PAIR(2) = scratch->state[2] | (__u64)scratch->state[3] << 32;
	SHA1_PAIR(4) = scratch->state[4] | 0x80000000ull << 32;
#pragma unroll
	for (i = 6; i < 14; i += 2)
		SHA1_PAIR(i) = 0;
	SHA1_PAIR(14) = (SHA1_BLOCK + SHA1_DIGEST) * 8ull << 32;
#pragma unroll
	for (i = 0; i < 5; i++)
		scratch->state[i] = outer[i];
	sha1_block(scratch);
}

#endif
