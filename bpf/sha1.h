/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* SHA-1's compression function (FIPS 180-4, 6.1.2), on the scratch memory of this CPU. */
#ifndef EARSHOT_SHA1_H
#define EARSHOT_SHA1_H

#include <bpf/bpf_endian.h>
#include "maps.h"

static __always_inline __u32 rotate(__u32 word, int bits)
{
	return word << bits | word >> (32 - bits);
}

/*
 * One round: adds to e, rotates b. The caller passes the five words one place
 * further each time instead of moving them.
 */
#define SHA1_ROUND(a, b, c, d, e, mixed, constant, word)            \
	do {                                                        \
		e += rotate(a, 5) + (mixed) + (constant) + (word);  \
		b = rotate(b, 30);                                  \
	} while (0)
#define SHA1_CHOOSE(b, c, d) (d ^ (b & (c ^ d)))
#define SHA1_PARITY(b, c, d) (b ^ c ^ d)
#define SHA1_MAJORITY(b, c, d) ((b & c) | (d & (b | c)))

/*
 * The schedule needs the last 16 words only. They stand in scratch memory, and
 * volatile: kept in values, clang lays out all 80 of them on the 512-byte stack.
 */
#define SHA1_WORD(t) \
	(w[(t) & 15] = rotate(w[((t) + 13) & 15] ^ w[((t) + 8) & 15] ^ w[((t) + 2) & 15] ^ w[(t) & 15], 1))
#define SHA1_FIVE(mix, constant, word, t)                                              \
	do {                                                                           \
		SHA1_ROUND(a, b, c, d, e, mix(b, c, d), constant, word(t));            \
		SHA1_ROUND(e, a, b, c, d, mix(a, b, c), constant, word((t) + 1));      \
		SHA1_ROUND(d, e, a, b, c, mix(e, a, b), constant, word((t) + 2));      \
		SHA1_ROUND(c, d, e, a, b, mix(d, e, a), constant, word((t) + 3));      \
		SHA1_ROUND(b, c, d, e, a, mix(c, d, e), constant, word((t) + 4));      \
	} while (0)
#define SHA1_LOADED(t) ((t) < 16 ? w[(t) & 15] : SHA1_WORD(t))

/*
 * Takes the 16 words from words[offset] on into scratch->state. Its own
 * function to the verifier, which sees the rounds once however often it is called.
 */
__noinline int sha1_block(struct scratch *scratch, __u32 offset)
{
	volatile __u32 *w;
	__u32 a, b, c, d, e;
	int t;

	if (!scratch)
		return 0;
	w = scratch->schedule;
#pragma unroll
	for (t = 0; t < 16; t++)
		w[t] = bpf_ntohl(scratch->words[(offset + t) & (SCRATCH_WORDS - 1)]);
	a = scratch->state[0];
	b = scratch->state[1];
	c = scratch->state[2];
	d = scratch->state[3];
	e = scratch->state[4];

	SHA1_FIVE(SHA1_CHOOSE, 0x5a827999, SHA1_LOADED, 0);
	SHA1_FIVE(SHA1_CHOOSE, 0x5a827999, SHA1_LOADED, 5);
	SHA1_FIVE(SHA1_CHOOSE, 0x5a827999, SHA1_LOADED, 10);
	SHA1_FIVE(SHA1_CHOOSE, 0x5a827999, SHA1_LOADED, 15);
	SHA1_FIVE(SHA1_PARITY, 0x6ed9eba1, SHA1_WORD, 20);
	SHA1_FIVE(SHA1_PARITY, 0x6ed9eba1, SHA1_WORD, 25);
	SHA1_FIVE(SHA1_PARITY, 0x6ed9eba1, SHA1_WORD, 30);
	SHA1_FIVE(SHA1_PARITY, 0x6ed9eba1, SHA1_WORD, 35);
	SHA1_FIVE(SHA1_MAJORITY, 0x8f1bbcdc, SHA1_WORD, 40);
	SHA1_FIVE(SHA1_MAJORITY, 0x8f1bbcdc, SHA1_WORD, 45);
	SHA1_FIVE(SHA1_MAJORITY, 0x8f1bbcdc, SHA1_WORD, 50);
	SHA1_FIVE(SHA1_MAJORITY, 0x8f1bbcdc, SHA1_WORD, 55);
	SHA1_FIVE(SHA1_PARITY, 0xca62c1d6, SHA1_WORD, 60);
	SHA1_FIVE(SHA1_PARITY, 0xca62c1d6, SHA1_WORD, 65);
	SHA1_FIVE(SHA1_PARITY, 0xca62c1d6, SHA1_WORD, 70);
	SHA1_FIVE(SHA1_PARITY, 0xca62c1d6, SHA1_WORD, 75);

	scratch->state[0] += a;
	scratch->state[1] += b;
	scratch->state[2] += c;
	scratch->state[3] += d;
	scratch->state[4] += e;
	return 0;
}

#endif
