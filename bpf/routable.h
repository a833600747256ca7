/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Ufrags that say themselves whose they are, and whose pwd follows from them: a
 * relay that was never told of a session binds it. The format, and what it keeps
 * from whom, is in docs/routable-ufrag.md; fleet/ufrag.py makes and reads it likewise.
 *
 *   16 characters of base64, 96 bits, from the top:
 *   version 2 | key 4 | owner 16, masked | session 31 | nonce 11 | tag 32
 */
#ifndef EARSHOT_ROUTABLE_H
#define EARSHOT_ROUTABLE_H

#include "maps.h"
#include "sha1.h"
#include "siphash.h"

#define ROUTABLE_LENGTH 16
#define ROUTABLE_HEAD 8 /* bytes before the tag */
#define RANDOM_MASK ((1ull << 42) - 1)
#define NONCE_BITS 11
#define PWD_CHARACTERS 22
#define PWD_WORDS 6 /* with the zeros behind them */
_Static_assert(sizeof(((struct scratch *)0)->pwd) == 4 * PWD_WORDS, "pwd");

/* Sections of their own: .rodata holds the settings, and nothing else. */
static const char base64[64] __attribute__((section(".rodata.base64"), aligned(64))) =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* What a character of base64 stands for (RFC 4648, 4), and more than 63 for all others. */
#define X 0xff
static const __u8 sextets[256] __attribute__((section(".rodata.base64"), aligned(64))) = {
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, 62, X, X, X, 63,
	52, 53, 54, 55, 56, 57, 58, 59, 60, 61, X, X, X, X, X, X,
	X, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, X, X, X, X, X,
	X, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51,
	X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
};
#undef X

/* Eight characters: 48 bits. *bad is more than 63 where one is not of base64. */
static __always_inline __u64 decoded(const char *characters, __u32 *bad)
{
	__u64 bits = 0;
	int i;

	/* Unrolled, it would spill more than the stack has left, as 6.1 counts it. */
#pragma clang loop unroll(disable)
	for (i = 0; i < 8; i++) {
		__u32 sextet = sextets[(__u8)characters[i]];

		*bad |= sextet;
		bits = bits << 6 | (sextet & 63);
	}
	return bits;
}

/* What tag and pwd come from, into scratch->state: the head of a ufrag behind the block of the fleet's key. */
static __always_inline void hash_head(struct scratch *scratch, const struct fleet_key *key, __u64 head)
{
	int i;

#pragma unroll
	for (i = 0; i < 5; i++)
		scratch->state[i] = key->secret[i];
	SHA1_PAIR(0) = head >> 32 | head << 32;
	SHA1_PAIR(2) = 0x80000000;
#pragma unroll
	for (i = 4; i < 14; i += 2)
		SHA1_PAIR(i) = 0;
	SHA1_PAIR(14) = (SHA1_BLOCK + ROUTABLE_HEAD) * 8ull << 32;
	sha1_block(scratch);
}

/* The state after the block of a pwd xor pad: half of what a session's key is. */
static __always_inline void hash_pwd(struct scratch *scratch, __u32 pad)
{
	const volatile __u32 *pwd = scratch->pwd;
	int i;

#pragma unroll
	for (i = 0; i < SHA1_BLOCK / 4; i += 2) {
		__u64 first = (i < PWD_WORDS ? pwd[i] : 0) ^ pad;
		__u64 second = (i < PWD_WORDS ? pwd[i + 1] : 0) ^ pad;

		SHA1_PAIR(i) = first | second << 32;
	}
	scratch->state[0] = 0x67452301;
	scratch->state[1] = 0xefcdab89;
	scratch->state[2] = 0x98badcfe;
	scratch->state[3] = 0x10325476;
	scratch->state[4] = 0xc3d2e1f0;
	sha1_block(scratch);
}

/* scratch->state[1..4] in base64, without its padding, into scratch->pwd. */
static __always_inline void spell_pwd(struct scratch *scratch)
{
	__u64 upper = (__u64)scratch->state[1] << 32 | scratch->state[2];
	__u64 lower = (__u64)scratch->state[3] << 32 | scratch->state[4];
	__u32 word = 0;
	int i;

	/* Unrolled, it would take most of the stack. */
#pragma clang loop unroll(disable)
	for (i = 0; i < PWD_CHARACTERS; i++) {
		word = word << 8 | (__u8)base64[upper >> 58];
		upper = upper << 6 | lower >> 58;
		lower <<= 6;
		if (i % 4 == 3)
			scratch->pwd[i / 4] = word;
	}
	scratch->pwd[PWD_CHARACTERS / 4] = word << 16;
}

/*
 * The session of scratch->ufrag, which nobody has registered, into scratch->derived:
 * UNDECIDED, or why there is none. scratch->words stay as they are. Its own
 * function to the verifier.
 */
__noinline int derive_session(struct scratch *scratch)
{
	struct session *session;
	const struct fleet_key *key;
	const struct fleet_owner *owner;
	__u32 number, tag;
	__u64 upper, lower, head;
	__u32 bad = 0;

	if (!scratch)
		return REASON_ABORTED_BAD_NUMBER;
	if (!scratch->ufrag.ufrag[ROUTABLE_LENGTH - 1] || scratch->ufrag.ufrag[ROUTABLE_LENGTH])
		return REASON_DROP_UNKNOWN_UFRAG;
	upper = decoded(scratch->ufrag.ufrag, &bad);
	lower = decoded(scratch->ufrag.ufrag + 8, &bad);
	if (bad > 63 || upper >> 46)
		return REASON_DROP_UNKNOWN_UFRAG;
	number = upper >> 42;
	key = bpf_map_lookup_elem(&fleet_keys_v1, &number);
	if (!key || !key->used)
		return REASON_DROP_UNKNOWN_UFRAG;
	head = upper << 16 | lower >> 32;
	tag = lower;

	hash_head(scratch, key, head);
	if (scratch->state[0] != tag)
		return REASON_DROP_UFRAG_FORGED;
	number = (head >> 42 ^ siphash(key->mask, head & RANDOM_MASK)) & (FLEET_OWNER_MAX - 1);
	owner = bpf_map_lookup_elem(&fleet_owners_v1, &number);
	if (!owner || !(owner->backend[0] | owner->backend[1]))
		return REASON_DROP_UNKNOWN_OWNER;
	session = &scratch->derived;
	session->number = 1u << SESSION_DERIVED_BIT | (head & RANDOM_MASK) >> NONCE_BITS;
	session->backend[0] = owner->backend[0];
	session->backend[1] = owner->backend[1];
	session->flags = SESSION_HAS_PWD;

	spell_pwd(scratch);
	hash_pwd(scratch, 0x36363636);
	__builtin_memcpy(session->inner, scratch->state, sizeof(session->inner));
	hash_pwd(scratch, 0x5c5c5c5c);
	__builtin_memcpy(session->outer, scratch->state, sizeof(session->outer));
	return UNDECIDED;
}

/* Its budget of new flows: sessions that share a cell share one. */
static __always_inline __u64 *derived_budget(const struct session *session)
{
	__u32 cell = session->number & (DERIVED_CELLS - 1);

	return bpf_map_lookup_elem(&derived_v1, &cell);
}

#endif
