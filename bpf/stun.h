/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* STUN (RFC 8489) as far as a relay must read it. */
#ifndef EARSHOT_STUN_H
#define EARSHOT_STUN_H

#include "abi.h"
#include "parse.h"

#define STUN_HEADER 20
#define STUN_COOKIE 0x2112A442
#define STUN_BINDING_REQUEST 0x0001
#define STUN_USERNAME 0x0006
#define STUN_MESSAGE_INTEGRITY 0x0008
#define STUN_MESSAGE_MAX 4095	/* an offset fits a mask; no frame that XDP sees whole is longer */
#define STUN_ATTRIBUTES_MAX 15	/* clients send seven to nine */
#define STUN_USERNAME_MAX 512	/* RFC 8489, 14.3: fewer than 509 bytes; RFC 5389 had 513 */

/* Where in the message (counted from its first byte) the parts are; 0: absent. */
struct stun {
	__u32 username;
	__u32 username_len;
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
 * Goes through all attributes, wherever USERNAME stands: nobody promises an
 * order before MESSAGE-INTEGRITY, and what comes after it is not covered by it.
 */
__noinline int stun_attributes(struct xdp_md *ctx, const struct packet *p, struct stun *stun)
{
	void *end, *data;
	__u32 base, length, offset = STUN_HEADER;
	int i, covered = 1;

	if (!p || !stun)
		return REASON_ABORTED_BAD_NUMBER;
	end = (void *)(long)ctx->data_end;
	data = (void *)(long)ctx->data;
	base = udp_offset(p) + sizeof(struct udphdr);
	length = p->payload_len;
	stun->username = 0;
	stun->username_len = 0;

	for (i = 0; i < STUN_ATTRIBUTES_MAX && offset < length; i++) {
		/* The mask is for the verifier: stun_header() bounded the length. */
		__be16 *attribute = data + base + (offset & STUN_MESSAGE_MAX);
		__u32 type, size;

		if (offset + 4 > length || (void *)(attribute + 2) > end)
			return REASON_DROP_STUN_ATTRIBUTE;
		type = bpf_ntohs(attribute[0]);
		size = bpf_ntohs(attribute[1]);
		offset += 4;
		if (offset + size > length)
			return REASON_DROP_STUN_ATTRIBUTE;
		if (type == STUN_USERNAME && covered && !stun->username) {
			stun->username = offset;
			stun->username_len = size;
		} else if (type == STUN_MESSAGE_INTEGRITY) {
			covered = 0;
		}
		offset += (size + 3) & ~3u;
	}
	return offset < length ? REASON_DROP_STUN_TOO_MANY_ATTRIBUTES : UNDECIDED;
}

/* The server's ufrag: what is before the colon of USERNAME (RFC 8445, 7.2.2). */
static __always_inline enum reason server_ufrag(struct xdp_md *ctx, const struct packet *p,
						const struct stun *stun, struct ufrag_key *key)
{
	__u32 base = udp_offset(p) + sizeof(struct udphdr), size = stun->username_len;
	char name[UFRAG_MAX + 1] = {};
	int i, past = 0, ended = 0;

	if (!stun->username)
		return REASON_DROP_STUN_NO_USERNAME;
	if (!size)
		return REASON_DROP_STUN_USERNAME_EMPTY;
	if (size > STUN_USERNAME_MAX)
		return REASON_DROP_STUN_USERNAME_TOO_LONG;
	if (size > sizeof(name))
		size = sizeof(name);
	barrier_var(size); /* or clang forgets to the verifier's eyes that it was clamped */
	if (size < 1 || size > sizeof(name) ||
	    bpf_xdp_load_bytes(ctx, base + (stun->username & STUN_MESSAGE_MAX), name, size))
		return REASON_DROP_TRUNCATED;

	for (i = 0; i < UFRAG_MAX; i++) {
		past |= name[i] == ':';
		ended |= !past && !name[i];
		key->ufrag[i] = past ? 0 : name[i];
	}
	/*
	 * None among the first 33, or a zero in front of it, which the key could not
	 * tell from its padding: there is no ufrag that could have been registered.
	 */
	if (ended || (!past && name[UFRAG_MAX] != ':'))
		return REASON_DROP_STUN_USERNAME_NO_COLON;
	return UNDECIDED;
}

#endif
