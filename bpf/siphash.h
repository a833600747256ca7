/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* SipHash-2-4 (Aumasson and Bernstein, 2012) of eight bytes, taken as a number of little-endian order. */
#ifndef EARSHOT_SIPHASH_H
#define EARSHOT_SIPHASH_H

#include <linux/types.h>

#define SIP_ROTATE(word, bits) ((word) << (bits) | (word) >> (64 - (bits)))
#define SIP_ROUND                        \
	do {                             \
		a += b;                  \
		b = SIP_ROTATE(b, 13);   \
		b ^= a;                  \
		a = SIP_ROTATE(a, 32);   \
		c += d;                  \
		d = SIP_ROTATE(d, 16);   \
		d ^= c;                  \
		a += d;                  \
		d = SIP_ROTATE(d, 21);   \
		d ^= a;                  \
		c += b;                  \
		b = SIP_ROTATE(b, 17);   \
		b ^= c;                  \
		c = SIP_ROTATE(c, 32);   \
	} while (0)

static __always_inline __u64 siphash(const __u64 *key, __u64 message)
{
	__u64 a = key[0] ^ 0x736f6d6570736575, b = key[1] ^ 0x646f72616e646f6d;
	__u64 c = key[0] ^ 0x6c7967656e657261, d = key[1] ^ 0x7465646279746573;
	__u64 length = 8ull << 56;

	d ^= message;
	SIP_ROUND;
	SIP_ROUND;
	a ^= message;
	d ^= length;
	SIP_ROUND;
	SIP_ROUND;
	a ^= length;
	c ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	return a ^ b ^ c ^ d;
}

#endif
