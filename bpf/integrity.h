/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Does whoever sent this request know the session's secret? FINGERPRINT first,
 * since it is cheaper and turns away what was not meant to be STUN, then
 * MESSAGE-INTEGRITY (RFC 8489, 14.5 and 14.7), which runs over the message with
 * another length in its header and with padding behind it: hence the scratch.
 */
#ifndef EARSHOT_INTEGRITY_H
#define EARSHOT_INTEGRITY_H

#include "crc32.h"
#include "maps.h"
#include "parse.h"
#include "sha1.h"
#include "stun.h"

#define FINGERPRINT_XOR 0x5354554e
#define CRC32_BLOCK 16 /* pairs of words */
_Static_assert(STUN_MESSAGE_MAX / 4 == 1023 && SCRATCH_WORDS >= 1024 + 17, "masks, and room for padding");
#define INTEGRITY_ATTRIBUTE 24 /* MESSAGE-INTEGRITY with its header */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define little_endian(word) (word)
#else
#define little_endian(word) __builtin_bswap32(word)
#endif

/* Of a word that so many tables' bytes stand behind. */
#define CRC32_ENTRY(number, offset) (*(const __u32 *)(table + (number) * sizeof(crc32_table[0]) + ((offset) & 0x3fc)))
#define CRC32_OF_WORD(behind, word)                                                               \
	((CRC32_ENTRY((behind) + 3, (word) << 2) ^ CRC32_ENTRY((behind) + 2, (word) >> 6)) ^      \
	 (CRC32_ENTRY((behind) + 1, (word) >> 14) ^ CRC32_ENTRY(behind, (word) >> 22)))

/*
 * Takes count words, but no more than a block, from words[first] on into the CRC,
 * eight bytes at a time. A function of its own to the verifier, which thus sees
 * one block, not a message of them.
 */
__noinline __u32 crc32_block(const struct scratch *scratch, __u32 first, __u32 count, __u32 crc)
{
	const char *table = (const char *)crc32_table;
	const __u32 *words;
	__u32 i, next;

	if (!scratch)
		return 0;
	/* In a register: else it is loaded anew for each byte, by an instruction of ten. */
	barrier_var(table);
	words = scratch->words + (first & (SCRATCH_WORDS - 1));
	for (i = 0; i < CRC32_BLOCK && count >= 2; i++, count -= 2, words += 2) {
		crc ^= little_endian(words[0]);
		next = little_endian(words[1]);
		crc = CRC32_OF_WORD(4, crc) ^ CRC32_OF_WORD(0, next);
	}
	if (i == CRC32_BLOCK || !count)
		return crc;
	crc ^= little_endian(words[0]);
	return CRC32_OF_WORD(0, crc);
}

/*
 * CRC-32 of the first length bytes, a multiple of 4: up to FINGERPRINT a message
 * consists of padded attributes.
 */
static __always_inline __u32 crc32_of(const struct scratch *scratch, __u32 length)
{
	__u32 crc = 0xffffffff, words = length / 4, first;

	for (first = 0; first < STUN_MESSAGE_MAX / 4 && first < words; first += 2 * CRC32_BLOCK)
		crc = crc32_block(scratch, first, words - first, crc);
	return ~crc;
}

/* The block of the message that begins at words[first], a multiple of 16. */
static __always_inline void hash_block(struct scratch *scratch, __u32 first)
{
	const __u32 *words = scratch->words + (first & (SCRATCH_WORDS - SHA1_BLOCK / 4));
	__u32 i;

#pragma unroll
	for (i = 0; i < SHA1_BLOCK / 8; i++)
		SHA1_PAIR(2 * i) = bpf_ntohl(words[2 * i]) | (__u64)bpf_ntohl(words[2 * i + 1]) << 32;
	sha1_block(scratch);
}

/* Whether the message in scratch has the HMAC that stands at offset integrity + 4. */
static __always_inline int hmac_holds(struct scratch *scratch, const struct session *session, __u32 integrity)
{
	/* The mask is for the verifier. What follows the attribute's first word stays within scratch->words. */
	__u32 *end = scratch->words + (integrity / 4 & STUN_MESSAGE_MAX / 4);
	__u32 blocks = (integrity + 8 + SHA1_BLOCK) / SHA1_BLOCK, difference = 0, i;

	/* Padding goes over the tag, so it is put aside. */
#pragma unroll
	for (i = 0; i < 5; i++) {
		scratch->tag[i] = end[1 + i];
		scratch->state[i] = session->inner[i];
	}
	/* The length as if the message ended with MESSAGE-INTEGRITY (RFC 8489, 14.5). */
	((__be16 *)scratch->words)[1] = bpf_htons(integrity + INTEGRITY_ATTRIBUTE - STUN_HEADER);

	/* A one bit, zeros, and the number of bits hashed, the key's block among them. */
	end[0] = bpf_htonl(0x80000000);
#pragma unroll
	for (i = 1; i < 17; i++)
		end[i] = 0;
	scratch->words[(blocks * 16 - 1) & (SCRATCH_WORDS - 1)] = bpf_htonl((SHA1_BLOCK + integrity) * 8);
	for (i = 0; i <= STUN_MESSAGE_MAX / SHA1_BLOCK && i < blocks; i++)
		hash_block(scratch, i * 16);

	/* The outer hash is over the inner one: a single block, made in place. */
	SHA1_PAIR(0) = scratch->state[0] | (__u64)scratch->state[1] << 32;
	SHA1_PAIR(2) = scratch->state[2] | (__u64)scratch->state[3] << 32;
	SHA1_PAIR(4) = scratch->state[4] | 0x80000000ull << 32;
#pragma unroll
	for (i = 6; i < 14; i += 2)
		SHA1_PAIR(i) = 0;
	SHA1_PAIR(14) = (SHA1_BLOCK + 20) * 8ull << 32;
#pragma unroll
	for (i = 0; i < 5; i++)
		scratch->state[i] = session->outer[i];
	sha1_block(scratch);

	/* Without a branch on the way: how long it takes says nothing about the tag. */
#pragma unroll
	for (i = 0; i < 5; i++)
		difference |= scratch->tag[i] ^ bpf_htonl(scratch->state[i]);
	return !difference;
}

/*
 * UNDECIDED, or the reason to turn the request away. The message is in scratch,
 * and is spoiled there.
 */
__noinline int check_integrity(struct scratch *scratch, const struct stun *stun, const struct session *session)
{
	if (!scratch || !stun || !session)
		return REASON_ABORTED_BAD_NUMBER;
	if (stun->fingerprint) {
		__u32 at = stun->fingerprint / 4 + 1;

		if ((crc32_of(scratch, stun->fingerprint) ^ FINGERPRINT_XOR) !=
		    bpf_ntohl(scratch->words[at & (SCRATCH_WORDS - 1)]))
			return REASON_DROP_STUN_FINGERPRINT;
	} else if (!(session->flags & SESSION_FINGERPRINT_OPTIONAL)) {
		return REASON_DROP_STUN_NO_FINGERPRINT;
	}
	if (!(session->flags & SESSION_HAS_PWD))
		return UNDECIDED;
	if (!stun->integrity)
		return REASON_DROP_STUN_NO_INTEGRITY;
	return hmac_holds(scratch, session, stun->integrity) ? UNDECIDED : REASON_DROP_STUN_INTEGRITY;
}

#endif
