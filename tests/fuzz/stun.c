/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Fuzz target: STUN. The input is a message; the headers around it are right, so
 * that not a byte is spent on them.
 *
 * The first byte chooses: bit 0 the family, bit 1 that FINGERPRINT, if it is the last
 * attribute, is made to hold, and bit 2 that MESSAGE-INTEGRITY is, where the walk of
 * attributes finds one: what no mutation would ever hit.
 */
#include "../../bpf/relay.bpf.c"

#include "world.h"

static void put16(uint8_t *at, unsigned value)
{
	at[0] = value >> 8;
	at[1] = value;
}

/* Writes the tag that the program expects; by its own hash, which other tests hold to hashlib. */
static void sign(uint8_t *message, __u32 length, int fingerprint, int integrity)
{
	struct scratch *scratch = calloc(1, sizeof(*scratch));
	struct session session = {};
	struct stun stun;

	if (!scratch)
		abort();
	memcpy(scratch->words, message, length);
	if (stun_attributes(scratch, length, &stun) == UNDECIDED) {
		if (integrity && stun.integrity) {
			world_key_state(0x36, session.inner);
			world_key_state(0x5c, session.outer);
			hmac_holds(scratch, &session, stun.integrity);
			for (int i = 0; i < 5; i++)
				scratch->state[i] = bpf_htonl(scratch->state[i]);
			memcpy(message + stun.integrity + 4, scratch->state, 20);
			memcpy(scratch->words, message, length);
		}
		if (fingerprint && stun.fingerprint) {
			__u32 crc = bpf_htonl(crc32_of(scratch, stun.fingerprint) ^ FINGERPRINT_XOR);

			memcpy(message + stun.fingerprint + 4, &crc, 4);
		}
	}
	free(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t frame[SHIM_FRAME_MAX];
	static const struct address clients[] = { V4(192, 0, 2, 4), { { { 0x20, 0x01, 0x0d, 0xb8, [15] = 4 } } } };
	const struct address *client, *vip;
	size_t headers;
	uint8_t *udp;

	if (size < 2 || size > 4200)
		return 0;
	client = &clients[data[0] & 1];
	vip = &world_vips[data[0] & 1];
	memset(frame, 0, sizeof(frame));
	if (data[0] & 1) {
		headers = IPV6_UDP_OFFSET;
		put16(frame + 12, 0x86dd);
		frame[14] = 0x60;
		put16(frame + 18, 8 + size - 1);
		frame[20] = IPPROTO_UDP;
		frame[21] = 64;
		memcpy(frame + 22, client, 16);
		memcpy(frame + 38, vip, 16);
	} else {
		headers = IPV4_UDP_OFFSET;
		put16(frame + 12, 0x0800);
		frame[14] = 0x45;
		put16(frame + 16, 28 + size - 1);
		frame[22] = 64;
		frame[23] = IPPROTO_UDP;
		memcpy(frame + 26, &client->words[3], 4);
		memcpy(frame + 30, &vip->words[3], 4);
	}
	udp = frame + headers;
	put16(udp, 50000);
	put16(udp + 2, 3478);
	put16(udp + 4, 8 + size - 1);
	put16(udp + 6, 0xffff);
	memcpy(udp + 8, data + 1, size - 1);
	if (data[0] & 6 && size - 1 >= STUN_HEADER && size - 1 <= STUN_MESSAGE_MAX && !((size - 1) & 3))
		sign(udp + 8, size - 1, data[0] & 2, data[0] & 4);
	world_begin();
	world_run(frame, headers + 8 + size - 1, WORLD_CLIENTS);
	/* Once more: by the flow that there may be now. */
	world_run(frame, headers + 8 + size - 1, WORLD_CLIENTS);
	return 0;
}
