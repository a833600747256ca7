/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* STUN (RFC 8489) as far as a relay must read it. */
#ifndef EARSHOT_STUN_H
#define EARSHOT_STUN_H

#include "abi.h"
#include "maps.h"
#include "parse.h"

#define STUN_HEADER 20
#define STUN_COOKIE 0x2112A442
#define STUN_BINDING_REQUEST 0x0001
#define STUN_BINDING_SUCCESS 0x0101
#define STUN_USERNAME 0x0006
#define STUN_MESSAGE_INTEGRITY 0x0008
#define STUN_FINGERPRINT 0x8028
#define STUN_MESSAGE_MAX 4095	/* an offset fits a mask; no frame that XDP sees whole is longer */
#define STUN_ATTRIBUTES_MAX 15	/* clients send seven to nine */
#define STUN_USERNAME_MAX 512	/* RFC 8489, 14.3: fewer than 509 bytes; RFC 5389 had 513 */

/* Where in the message (counted in bytes from its first) the parts are; 0: absent. */
struct stun {
	__u32 username;
	__u32 username_len;
	__u32 integrity;   /* of the attribute, not its value: how far the HMAC reaches */
	__u32 fingerprint; /* likewise, the CRC; the last attribute */
};

/* First byte by RFC 7983: 0-3 STUN, 20-63 DTLS, 128-191 RTP and RTCP. */
static __always_inline int is_stun(__u8 first)
{
	return first <= 3;
}

static __always_inline int is_rtc(__u8 first)
{
	return is_stun(first) || (first >= 20 && first <= 63) || (first >= 128 && first <= 191);
}

/* Header only. On success *type is the message type, in host byte order. */
static __always_inline enum reason stun_header(struct xdp_md *ctx, const struct packet *p, __u16 *type)
{
	void *end = (void *)(long)ctx->data_end;
	__u8 *message = (void *)(long)ctx->data + udp_offset(p) + sizeof(struct udphdr);
	__u16 length;

	if (p->payload_len < STUN_HEADER)
		return REASON_DROP_STUN_SHORT;
	if ((void *)(message + STUN_HEADER) > end)
		return REASON_DROP_TRUNCATED;
	*type = bpf_ntohs(*(__be16 *)message);
	length = bpf_ntohs(*(__be16 *)(message + 2));
	if (*(__be32 *)(message + 4) != bpf_htonl(STUN_COOKIE))
		return REASON_DROP_STUN_COOKIE;
	if ((length & 3) || length + STUN_HEADER != p->payload_len || p->payload_len > STUN_MESSAGE_MAX)
		return REASON_DROP_STUN_LENGTH;
	return UNDECIDED;
}

/*
 * Copies the message to this CPU's scratch memory: it is walked, hashed and
 * padded there, and the packet stays as it is. One program at a time runs on a
 * CPU's packets, so nobody else writes there meanwhile. NULL where that fails.
 */
static __always_inline struct scratch *load_message(struct xdp_md *ctx, const struct packet *p)
{
	__u32 zero = 0, length = p->payload_len;
	struct scratch *scratch = bpf_map_lookup_elem(&scratch_v3, &zero);

	/*
	 * stun_header() has seen to the length; this is for the verifier, which must
	 * see it here. Clang makes one comparison of the two, of a difference, and
	 * kernels before 6.11 learn nothing about length from that: hence the barrier.
	 */
	if (!scratch || length < STUN_HEADER)
		return NULL;
	barrier_var(length);
	if (length > STUN_MESSAGE_MAX ||
	    bpf_xdp_load_bytes(ctx, udp_offset(p) + sizeof(struct udphdr), scratch->words, length))
		return NULL;
	return scratch;
}

/*
 * Goes through all attributes, wherever USERNAME stands: nobody promises an
 * order before MESSAGE-INTEGRITY, and what comes after it is not covered by it.
 */
__noinline int stun_attributes(const struct scratch *scratch, __u32 length, struct stun *stun)
{
	__u32 offset = STUN_HEADER;
	int i;

	if (!scratch || !stun)
		return REASON_ABORTED_BAD_NUMBER;
	__builtin_memset(stun, 0, sizeof(*stun));
	for (i = 0; i < STUN_ATTRIBUTES_MAX && offset < length; i++) {
		/* Attributes start at multiples of 4. The mask is for the verifier. */
		__u32 head = bpf_ntohl(scratch->words[offset / 4 & (SCRATCH_WORDS - 1)]);
		__u32 type = head >> 16, size = head & 0xffff, next;

		offset += 4;
		if (offset + size > length)
			return REASON_DROP_STUN_ATTRIBUTE;
		/*
		 * Before size is compared with anything: else the verifier knows it on some
		 * ways through the loop, and takes each sequence of them for a case of its own.
		 */
		next = offset + ((size + 3) & ~3u);
		barrier_var(next);
		if (type == STUN_USERNAME && !stun->integrity && !stun->username) {
			stun->username = offset;
			stun->username_len = size;
		} else if (type == STUN_MESSAGE_INTEGRITY && size == 20 && !stun->integrity) {
			stun->integrity = offset - 4;
		} else if (type == STUN_FINGERPRINT && size == 4 && offset + 4 == length) {
			stun->fingerprint = offset - 4;
		}
		offset = next;
	}
	return offset < length ? REASON_DROP_STUN_TOO_MANY_ATTRIBUTES : UNDECIDED;
}

/*
 * The server's ufrag, as a key for sessions, into scratch->ufrag: what is before
 * the colon of USERNAME (RFC 8445, 7.2.2). A function of its own to the verifier:
 * so many ways out of the loop would multiply with the ways through the caller.
 */
__noinline int server_ufrag(struct scratch *scratch, const struct stun *stun)
{
	const char *name;
	__u32 size, i;

	if (!scratch || !stun)
		return REASON_ABORTED_BAD_NUMBER;
	name = (const char *)scratch->words + (stun->username & STUN_MESSAGE_MAX);
	size = stun->username_len;
	if (!stun->username)
		return REASON_DROP_STUN_NO_USERNAME;
	if (!size)
		return REASON_DROP_STUN_USERNAME_EMPTY;
	if (size > STUN_USERNAME_MAX)
		return REASON_DROP_STUN_USERNAME_TOO_LONG;
	__builtin_memset(&scratch->ufrag, 0, sizeof(scratch->ufrag));
	for (i = 0; i <= UFRAG_MAX && i < size; i++) {
		if (name[i] == ':')
			return UNDECIDED;
		/*
		 * Too long, or a zero, which the key could not tell from its padding:
		 * there is no ufrag that could have been registered.
		 */
		if (i == UFRAG_MAX || !name[i])
			break;
		scratch->ufrag.ufrag[i] = name[i];
	}
	return REASON_DROP_STUN_USERNAME_NO_COLON;
}

#endif
