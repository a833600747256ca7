/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The relay host that fuzzed packets meet: both families, sessions of each kind,
 * budgets that run out. To be included behind the program. corpus.py knows the
 * same addresses, ufrags and pwd.
 */
#ifndef EARSHOT_FUZZ_WORLD_H
#define EARSHOT_FUZZ_WORLD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "shim/shim.h"

#define WORLD_PWD "the-pwd-of-all-fuzzed-sessions"
#define WORLD_PORT_MIN 40000
#define WORLD_PORTS 20
#define WORLD_BUCKETS 5
#define WORLD_SLOTS 8 /* of one bucket that stay open: most flows are entered away from home, some nowhere */
#define WORLD_FREE 12 /* records of each family, of which packets make flows */
#define WORLD_CLIENTS 1 /* ifindex */
#define WORLD_BACKENDS 2

#define V4(a, b, c, d) { { { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d } } }

/* IPv4's, IPv6's: 2001:db8:f::1, fd00:20::1 and fd00:20::10. */
static const struct address world_vips[] = {
	V4(10, 77, 9, 9), { { { 0x20, 0x01, 0x0d, 0xb8, 0, 0x0f, [15] = 1 } } }
};
static const struct address world_relays[] = { V4(10, 20, 0, 1), { { { 0xfd, 0, 0, 0x20, [15] = 1 } } } };
static const struct address world_backends[] = { V4(10, 20, 0, 10), { { { 0xfd, 0, 0, 0x20, [15] = 0x10 } } } };

/* The program's settings are constants that its loader sets: here, so are they. */
static void world_settings(void)
{
	struct settings *writable = (struct settings *)&settings;
	uintptr_t page = sysconf(_SC_PAGESIZE), start = (uintptr_t)writable & ~(page - 1);

	barrier_var(writable); /* or the compiler leaves out what it knows cannot be written */
	if (mprotect((void *)start, (uintptr_t)(writable + 1) - start, PROT_READ | PROT_WRITE))
		abort();
	*writable = (struct settings){
		.layout = {
			.port_min = WORLD_PORT_MIN,
			.port_max = WORLD_PORT_MIN + WORLD_PORTS - 1,
			.span = WORLD_PORTS,
			.relays = 2,
			.buckets = WORLD_BUCKETS,
			.hash_key = { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
				      0x082efa98, 0xec4e6c89 },
		},
		.relay_ratio = ((1ull << RELAY_RATIO_SHIFT) + WORLD_PORTS - 1) / WORLD_PORTS,
		.jiffy_ns = 1000000,
		.source_interval = 1000000,
		.source_burst = 20 * 1000000,
		.binding_interval = 1000000,
		.binding_burst = 20 * 1000000,
		.session_interval = 1000000000,
		.session_burst = 3 * 1000000000ull,
		.quality = 1,
	};
	shim_size(&sessions_v1, 64);
	shim_size(&backends_v1, 3);
	shim_size(&flows_v2, 2 * WORLD_PORTS);
	shim_size(&quality_v2, 2 * WORLD_PORTS);
	shim_size(&quality_more_v1, 2 * WORLD_PORTS);
	shim_size(&flow_index_v2, WORLD_BUCKETS);
	shim_size(&free_flows_v2, (2 * (WORLD_PORTS + 1) + FREE_LINE - 1) / FREE_LINE);
}

static int world_enter(struct locals *table, struct local local)
{
	__u32 mix = local.addr.words[0] * 3 + local.addr.words[1] * 5 + local.addr.words[2] * 7 +
		    local.addr.words[3] + local.port;
	struct local *slot = &table->slots[mix * table->seed >> 26];

	if (slot->kind != LOCAL_NONE)
		return 0;
	*slot = local;
	return 1;
}

static void world_locals(void)
{
	static struct locals table; /* found once */
	__u32 zero = 0, seed, number;
	int fits, i;

	for (seed = 1; !table.seed; seed += 2) {
		table = (struct locals){ .seed = seed };
		for (number = 0, fits = 1; number < 2; number++) {
			const struct local ours[] = {
				{ .addr = world_vips[number], .port = bpf_htons(3478), .kind = LOCAL_VIP, .number = number },
				{ .addr = world_vips[number], .kind = LOCAL_OWN },
				{ .addr = world_relays[number], .kind = LOCAL_RELAY, .number = number },
			};

			for (i = 0; i < 3; i++)
				fits &= world_enter(&table, ours[i]);
		}
		if (!fits)
			table.seed = 0;
	}
	bpf_map_update_elem(&locals_v2, &zero, &table, BPF_ANY);
}

/* The key states of WORLD_PWD, by the program's own SHA-1. */
static void world_key_state(__u8 pad, __u32 state[5])
{
	static const __u32 initial[5] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0 };
	struct scratch *scratch = calloc(1, sizeof(*scratch));
	__u8 *block;
	int i;

	if (!scratch)
		abort();
	block = (__u8 *)scratch->words;
	memcpy(block, WORLD_PWD, sizeof(WORLD_PWD) - 1);
	for (i = 0; i < 64; i++)
		block[i] ^= pad;
	memcpy(scratch->state, initial, sizeof(initial));
	hash_block(scratch, 0);
	memcpy(state, scratch->state, sizeof(initial));
	free(scratch);
}

static void world_sessions(void)
{
	static const struct {
		const char *ufrag;
		__u32 number;
		__u16 flags, backend[2];
	} all[] = {
		{ "T0000001x", 1, SESSION_HAS_PWD, { 1, 2 } }, /* of the captures, and their restart */
		{ "T0000001r", 1, SESSION_HAS_PWD, { 1, 2 } },
		{ "lax", 2, SESSION_HAS_PWD | SESSION_FINGERPRINT_OPTIONAL, { 1, 2 } },
		{ "open", 3, 0, { 1, 2 } },
		{ "laxopen", 4, SESSION_FINGERPRINT_OPTIONAL, { 1, 2 } },
		{ "v4", 5, SESSION_FINGERPRINT_OPTIONAL, { 1, 0 } },
		{ "none", 6, SESSION_FINGERPRINT_OPTIONAL, { 9, 9 } }, /* a backend that is not there */
		{ "uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu", 7, SESSION_FINGERPRINT_OPTIONAL, { 1, 2 } },
	};
	static __u32 inner[5], outer[5];
	size_t i;

	if (!inner[0]) {
		world_key_state(0x36, inner);
		world_key_state(0x5c, outer);
	}
	for (i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct session session = { .number = all[i].number, .flags = all[i].flags };
		struct ufrag_key key = {};

		memcpy(key.ufrag, all[i].ufrag, strlen(all[i].ufrag));
		memcpy(session.backend, all[i].backend, sizeof(session.backend));
		memcpy(session.inner, inner, sizeof(inner));
		memcpy(session.outer, outer, sizeof(outer));
		bpf_map_update_elem(&sessions_v1, &key, &session, BPF_ANY);
	}
}

static struct bucket *world_bucket(__u32 number)
{
	return bpf_map_lookup_elem(&flow_index_v2, &number);
}

/* Entries of all kinds of tags, that lead nowhere, in all slots but some of the first bucket. */
static void world_index(void)
{
	__u32 number, i;

	for (number = 0; number < WORLD_BUCKETS; number++)
		for (i = BUCKET_FIRST_SLOT; i < BUCKET_WORDS - (number ? 0 : WORLD_SLOTS); i++)
			world_bucket(number)->words[i] = SLOT_USED | (number * 157 + i * 131) << SLOT_NUMBER_BITS |
							 SLOT_NUMBER;
}

/* Each family's ring: half of its numbers, around the ring's end. */
static void world_free_flows(void)
{
	__u32 family, i, at;

	for (family = 0; family < 2; family++) {
		struct free_list *list = bpf_map_lookup_elem(&free_lists_v1, &family);

		list->first = family * (WORLD_PORTS + 1);
		list->size = WORLD_PORTS + 1;
		list->head = list->tail = WORLD_PORTS - 2;
		for (i = 0; i < WORLD_FREE; i++) {
			__u32 line = (list->first + list->tail) / FREE_LINE;
			struct free_line *places = bpf_map_lookup_elem(&free_flows_v2, &line);

			at = (list->first + list->tail) % FREE_LINE;
			places->numbers[at] = family * WORLD_PORTS + i;
			list->tail = (list->tail + 1) % list->size;
		}
	}
}

/* The same maps before each input. */
/* Somebody looks at all packets, and somebody at those of a ufrag that has no session. */
static void world_taps(void)
{
	static struct taps taps = { .until = ~0ull };
	__u32 zero = 0, slot;

	for (slot = 0; slot < 2; slot++)
		taps.taps[slot] = (struct tap){ .until = ~0ull, .reasons = { ~0ull, ~0ull }, .snap = 4096,
						.session = NO_SESSION };
	taps.taps[1].match = TAP_MATCH_UFRAG;
	memcpy(taps.taps[1].ufrag.ufrag, "nobody", 6);
	bpf_map_update_elem(&taps_v1, &zero, &taps, BPF_ANY);
}

static void world_begin(void)
{
	const struct hop to_backends = { .dmac = { 2, 0, 0, 0, 0, 0xb1 }, .resolved = HOP_RESOLVED, .mtu = 1500,
					 .ifindex = WORLD_BACKENDS };
	static int is_set;
	__u32 number, link;

	if (!is_set)
		world_settings();
	is_set = 1;
	shim_reset();
	world_locals();
	world_sessions();
	for (number = 0; number < 2; number++) {
		struct vip vip = { .addr = world_vips[number], .port = bpf_htons(3478) };
		struct relay relay = { .addr = world_relays[number] };
		struct backend backend = { .addr = world_backends[number],
					   .port = bpf_htons(5000), .hop = 1 };
		__u32 backend_number = number + 1;

		bpf_map_update_elem(&vips_v1, &number, &vip, BPF_ANY);
		bpf_map_update_elem(&relays_v1, &number, &relay, BPF_ANY);
		bpf_map_update_elem(&backends_v1, &backend_number, &backend, BPF_ANY);
	}
	for (link = WORLD_CLIENTS; link <= WORLD_BACKENDS; link++) {
		struct link_info info = { .mac = { 2, 0, 0, 0, 0, link }, .mtu = 1500 };

		bpf_map_update_elem(&links_v1, &link, &info, BPF_ANY);
	}
	number = 1;
	bpf_map_update_elem(&hops_v1, &number, &to_backends, BPF_ANY);
	for (number = 20; number < 26; number++)
		bpf_map_push_elem(&free_hops_v1, &number, 0);
	world_index();
	world_free_flows();
	world_taps();
}

#define WORLD_CHECK(condition)                                                             \
	do {                                                                               \
		if (!(condition)) {                                                        \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
			abort();                                                           \
		}                                                                          \
	} while (0)

static void world_counts(__u64 packets[REASON_MAX])
{
	__u32 reason;

	for (reason = 0; reason < REASON_MAX; reason++)
		packets[reason] = ((struct reason_counter *)bpf_map_lookup_elem(&reasons_v1, &reason))->packets;
}

/* No lock is left behind, every entry of a flow leads to one, and what is spilt is counted. */
static void world_check_index(void)
{
	__u32 spilt[WORLD_BUCKETS] = {}, entered[2 * WORLD_PORTS] = {}, bucket, number, i;

	for (bucket = 0; bucket < WORLD_BUCKETS; bucket++) {
		for (i = BUCKET_FIRST_SLOT; i < BUCKET_WORDS; i++) {
			__u32 word = world_bucket(bucket)->words[i];
			struct flow_key key;
			struct place place;
			struct flow *flow;

			number = word & SLOT_NUMBER;
			if (!word || number == SLOT_NUMBER)
				continue;
			flow = bpf_map_lookup_elem(&flows_v2, &number);
			WORLD_CHECK(flow && state_of(flow) != FLOW_FREE && state_of(flow) != FLOW_BINDING);
			WORLD_CHECK(!entered[number]++);
			memcpy(&key, flow, sizeof(key));
			place = place_of(&key);
			WORLD_CHECK(word == (place.slot | number));
			WORLD_CHECK((bucket + WORLD_BUCKETS - place.bucket) % WORLD_BUCKETS < SLOT_TURNS);
			spilt[place.bucket] += bucket == place.bucket ? 0 : BUCKET_SPILT_ONE;
		}
	}
	for (bucket = 0; bucket < WORLD_BUCKETS; bucket++)
		WORLD_CHECK(world_bucket(bucket)->words[BUCKET_SPILT] == spilt[bucket]);
}

/* Lets a frame come in, and looks whether what is true of every packet is true of this one. */
static void world_run(const uint8_t *frame, size_t length, __u32 link)
{
	__u64 before[REASON_MAX], after[REASON_MAX];
	enum reason reason = REASON_MAX;
	struct xdp_md ctx;
	uint8_t *placed = shim_place(&ctx, frame, length, link);
	int action, i;

	world_counts(before);
	action = earshot(&ctx);
	world_counts(after);
	for (i = 0; i < REASON_MAX; i++) {
		if (after[i] == before[i])
			continue;
		WORLD_CHECK(after[i] == before[i] + 1 && reason == REASON_MAX);
		reason = i;
	}
	WORLD_CHECK(reason != REASON_MAX);
	WORLD_CHECK(reason != REASON_DROP_BUSY && reason != REASON_DROP_FREE_LIST);
	world_check_index();
	WORLD_CHECK(is_forward(reason) == (action == XDP_TX || action == XDP_REDIRECT));
	WORLD_CHECK((reason <= REASON_PASS_NOT_OURS) == (action == XDP_PASS));
	WORLD_CHECK((reason == REASON_ABORTED_BAD_NUMBER) == (action == XDP_ABORTED));
	if (action == XDP_REDIRECT)
		WORLD_CHECK(shim_redirected != link);
	if (!is_forward(reason)) {
		WORLD_CHECK(!memcmp(placed, frame, length));
		return;
	}
	/* EtherType, and from behind the UDP header on: as they were. */
	size_t headers = frame[12] == 0x08 ? IPV4_UDP_OFFSET : IPV6_UDP_OFFSET;

	WORLD_CHECK(length > headers + 8);
	WORLD_CHECK(!memcmp(placed + 12, frame + 12, 3));
	WORLD_CHECK(!memcmp(placed + headers + 8, frame + headers + 8, length - headers - 8));
}

#endif
