/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * SHA-1's compression function (FIPS 180-4, 6.1.2), on the scratch memory of this CPU.
 *
 * It is half of what a binding costs, and BPF has no rotation: written as the
 * standard does it takes 30 instructions a round, here 20.
 * - A working word is kept twice in 64 bits: rotated by n it is then one shift to
 *   the right by 32 - n. It is rotated only twice in its life: by 5 and by 30.
 * - The schedule is made two words at a time, in the two halves of 64 bits, and is
 *   only ever written and read by such pairs: a processor that has to put a pair
 *   together from two stores that are still on their way waits for both.
 */
#ifndef EARSHOT_SHA1_H
#define EARSHOT_SHA1_H

#include <bpf/bpf_endian.h>
#include "maps.h"

#define SHA1_BLOCK 64 /* bytes */

/*
 * The barriers keep clang from seeing what it is about: it would make a
 * multiplication of the doubling and rotations of five instructions of the shifts.
 */
#define SHA1_TWICE(word)                              \
	({                                            \
		__u64 lower = (__u32)(word), upper;   \
		upper = lower << 32;                  \
		barrier_var(upper);                   \
		upper |= lower;                       \
		barrier_var(upper);                   \
		upper;                                \
	})

/*
 * One round: e becomes the new word, b is rotated. The caller passes the five
 * words one place further each time instead of moving them. Upper halves are
 * left as they come: all but the shifts is done in the lower ones. What depends on
 * the round before is added last, since the rounds wait for each other there.
 */
#define SHA1_ROUND(a, b, c, d, e, mix, constant, word)                                               \
	do {                                                                                         \
		sum = (__u32)e + (constant) + (__u32)(word) + mix((__u32)b, (__u32)c, (__u32)d);     \
		barrier_var(sum);                                                                    \
		e = SHA1_TWICE(sum + (__u32)(a >> 27));                                              \
		b >>= 2;                                                                             \
	} while (0)
#define SHA1_CHOOSE(b, c, d) (d ^ (b & (c ^ d)))
#define SHA1_PARITY(b, c, d) (b ^ c ^ d)
#define SHA1_MAJORITY(b, c, d) ((b & c) | (d & (b | c)))

/* Words t and t + 1 of the schedule, t even. Volatile: else clang keeps them all on the 512-byte stack. */
#define SHA1_PAIR(t) (((volatile __u64 *)scratch->schedule)[(t) / 2])

/* Rotates both halves by n: what has gone from the lower into the upper one is taken back. */
#define SHA1_ROTATE_PAIR(n)                                  \
	do {                                                 \
		tops = pair >> (32 - (n)) & lowest##n;       \
		pair = (pair << (n)) - (tops << 32) + tops;  \
	} while (0)
#define SHA1_LOAD(t)                  \
	do {                          \
		pair = SHA1_PAIR(t);  \
	} while (0)
/* As in the standard, for words 16 to 31. Words t - 3 and t - 2 are in two pairs. */
#define SHA1_MAKE(t)                                                                \
	do {                                                                        \
		pair = SHA1_PAIR((t) - 4) >> 32 | SHA1_PAIR((t) - 2) << 32;         \
		pair ^= SHA1_PAIR((t) - 8) ^ SHA1_PAIR((t) - 14) ^ SHA1_PAIR((t) - 16); \
		SHA1_ROTATE_PAIR(1);                                                \
		SHA1_PAIR(t) = pair;                                                \
	} while (0)
/* The same put into itself, for words from 32 on: all of them are in pairs. */
#define SHA1_MAKE_ON(t)                                                                            \
	do {                                                                                       \
		pair = SHA1_PAIR((t) - 6) ^ SHA1_PAIR((t) - 16) ^ SHA1_PAIR((t) - 28) ^ SHA1_PAIR((t) - 32); \
		SHA1_ROTATE_PAIR(2);                                                               \
		SHA1_PAIR(t) = pair;                                                               \
	} while (0)

/* Ten rounds: after them the five words are back in their places. */
#define SHA1_TEN(mix, constant, GET, t) SHA1_TEN_OF(mix, constant, GET, GET, GET, GET, GET, t)
#define SHA1_TEN_OF(mix, constant, GET0, GET2, GET4, GET6, GET8, t)             \
	do {                                                                    \
		GET0(t);                                                        \
		SHA1_ROUND(a, b, c, d, e, mix, constant, pair);     \
		SHA1_ROUND(e, a, b, c, d, mix, constant, pair >> 32);    \
		GET2((t) + 2);                                                  \
		SHA1_ROUND(d, e, a, b, c, mix, constant, pair);     \
		SHA1_ROUND(c, d, e, a, b, mix, constant, pair >> 32);    \
		GET4((t) + 4);                                                  \
		SHA1_ROUND(b, c, d, e, a, mix, constant, pair);     \
		SHA1_ROUND(a, b, c, d, e, mix, constant, pair >> 32);    \
		GET6((t) + 6);                                                  \
		SHA1_ROUND(e, a, b, c, d, mix, constant, pair);     \
		SHA1_ROUND(d, e, a, b, c, mix, constant, pair >> 32);    \
		GET8((t) + 8);                                                  \
		SHA1_ROUND(c, d, e, a, b, mix, constant, pair);     \
		SHA1_ROUND(b, c, d, e, a, mix, constant, pair >> 32);    \
	} while (0)

/*
 * Takes schedule[0..15] into scratch->state. Its own function to the verifier,
 * which sees the rounds once however often it is called.
 */
__noinline int sha1_block(struct scratch *scratch)
{
	__u32 sum;
	__u64 a, b, c, d, e, pair, tops, lowest1 = 0x100000001, lowest2 = 0x300000003;

	if (!scratch)
		return 0;
	/* In a register each, or in memory, instead of two instructions wherever they are needed. */
	barrier_var(lowest1);
	barrier_var(lowest2);
	a = SHA1_TWICE(scratch->state[0]);
	b = SHA1_TWICE(scratch->state[1]);
	c = scratch->state[2];
	d = scratch->state[3];
	e = scratch->state[4];

	SHA1_TEN(SHA1_CHOOSE, 0x5a827999, SHA1_LOAD, 0);
	SHA1_TEN_OF(SHA1_CHOOSE, 0x5a827999, SHA1_LOAD, SHA1_LOAD, SHA1_LOAD, SHA1_MAKE, SHA1_MAKE, 10);
	SHA1_TEN(SHA1_PARITY, 0x6ed9eba1, SHA1_MAKE, 20);
	SHA1_TEN_OF(SHA1_PARITY, 0x6ed9eba1, SHA1_MAKE, SHA1_MAKE_ON, SHA1_MAKE_ON, SHA1_MAKE_ON, SHA1_MAKE_ON, 30);
	SHA1_TEN(SHA1_MAJORITY, 0x8f1bbcdc, SHA1_MAKE_ON, 40);
	SHA1_TEN(SHA1_MAJORITY, 0x8f1bbcdc, SHA1_MAKE_ON, 50);
	SHA1_TEN(SHA1_PARITY, 0xca62c1d6, SHA1_MAKE_ON, 60);
	SHA1_TEN(SHA1_PARITY, 0xca62c1d6, SHA1_MAKE_ON, 70);

	scratch->state[0] += (__u32)a;
	scratch->state[1] += (__u32)b;
	scratch->state[2] += (__u32)c;
	scratch->state[3] += (__u32)d;
	scratch->state[4] += (__u32)e;
	return 0;
}

#endif
