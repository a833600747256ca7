/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Maps and helpers for the program on the host. Every value of a map is an
 * allocation of its own and of its exact size, so that ASan sees a step beyond it.
 * Slow where the kernel is fast; the tables here are small.
 */
#include "shim.h"

#include <bpf/bpf_helpers.h>
#include <errno.h>
#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAPS_MAX 32
#define FRAME_ADDRESS 0x20000000ul /* far below 4 GiB, and where nobody else maps */
#define FRAME_REGION 0x4000ul
/* As the kernel does (NET_IP_ALIGN): behind 14 bytes of Ethernet, IP is aligned, and UBSan content. */
#define FRAME_OFFSET (0x1000 + 2)

struct entry {
	struct entry *next;
	void *value;
	unsigned char key[];
};

struct table {
	struct shim_map map;
	struct entry *entries; /* a queue's oldest first */
	struct entry **by_index; /* of an array: where an entry that was asked for is */
	__u32 count;
};

static struct table tables[MAPS_MAX];
static struct {
	const void *map;
	__u32 entries;
} sizes[MAPS_MAX];

__u32 shim_redirected;

static void *allocate(size_t size)
{
	void *memory = calloc(1, size);

	if (!memory)
		abort();
	return memory;
}

static struct table *table_of(struct shim_map map)
{
	int i, s;

	for (i = 0; i < MAPS_MAX; i++) {
		if (tables[i].map.identity == map.identity)
			return &tables[i];
		if (tables[i].map.identity)
			continue;
		tables[i].map = map;
		for (s = 0; s < MAPS_MAX; s++)
			if (sizes[s].map == map.identity)
				tables[i].map.max_entries = sizes[s].entries;
		return &tables[i];
	}
	abort();
}

static int is_array(const struct table *table)
{
	return table->map.type == BPF_MAP_TYPE_ARRAY || table->map.type == BPF_MAP_TYPE_PERCPU_ARRAY;
}

static struct entry *new_entry(struct table *table, const void *key, const void *value)
{
	struct entry *entry = allocate(sizeof(*entry) + table->map.key_size);

	entry->value = allocate(table->map.value_size);
	if (value)
		memcpy(entry->value, value, table->map.value_size);
	if (key)
		memcpy(entry->key, key, table->map.key_size);
	table->count++;
	return entry;
}

static void append(struct table *table, const void *key, const void *value)
{
	struct entry **end = &table->entries;

	while (*end)
		end = &(*end)->next;
	*end = new_entry(table, key, value);
}

/* All of an array is there, and zero; what nobody has asked for has no memory yet. */
static void *array_value(struct table *table, const void *key)
{
	struct entry *entry;
	__u32 index;

	memcpy(&index, key, sizeof(index));
	if (index >= table->map.max_entries)
		return NULL;
	if (!table->by_index)
		table->by_index = allocate(table->map.max_entries * sizeof(*table->by_index));
	if (!table->by_index[index]) {
		entry = new_entry(table, key, NULL);
		entry->next = table->entries;
		table->entries = table->by_index[index] = entry;
	}
	return table->by_index[index]->value;
}

static void unlink_entry(struct table *table, struct entry **link)
{
	struct entry *entry = *link;
	__u32 index;

	*link = entry->next;
	if (table->by_index) {
		memcpy(&index, entry->key, sizeof(index));
		table->by_index[index] = NULL;
	}
	free(entry->value);
	free(entry);
	table->count--;
}

void shim_reset(void)
{
	int i;

	for (i = 0; i < MAPS_MAX; i++)
		while (tables[i].entries)
			unlink_entry(&tables[i], &tables[i].entries);
}

void shim_size(const void *map, __u32 entries)
{
	int i;

	for (i = 0; i < MAPS_MAX && sizes[i].map && sizes[i].map != map; i++)
		;
	if (i == MAPS_MAX)
		abort();
	sizes[i].map = map;
	sizes[i].entries = entries;
}

/* The length of a prefix, then an address: the longest that fits. */
static struct entry *longest_prefix(struct table *table, const void *key)
{
	struct entry *entry, *best = NULL;
	const unsigned char *address = (const unsigned char *)key + sizeof(__u32);
	__u32 bits, best_bits = 0, i;

	for (entry = table->entries; entry; entry = entry->next) {
		memcpy(&bits, entry->key, sizeof(bits));
		for (i = 0; i < bits; i++)
			if ((address[i / 8] ^ entry->key[sizeof(bits) + i / 8]) >> (7 - i % 8) & 1)
				break;
		if (i == bits && (!best || bits > best_bits)) {
			best = entry;
			best_bits = bits;
		}
	}
	return best;
}

static struct entry *find(struct table *table, const void *key)
{
	struct entry *entry;

	if (table->map.type == BPF_MAP_TYPE_LPM_TRIE)
		return longest_prefix(table, key);
	for (entry = table->entries; entry; entry = entry->next)
		if (!memcmp(entry->key, key, table->map.key_size))
			return entry;
	return NULL;
}

void *shim_lookup(struct shim_map map, const void *key)
{
	struct table *table = table_of(map);
	struct entry *entry;

	if (is_array(table))
		return array_value(table, key);
	entry = find(table, key);
	return entry ? entry->value : NULL;
}

long shim_update(struct shim_map map, const void *key, const void *value, __u64 flags)
{
	struct table *table = table_of(map);
	void *there = shim_lookup(map, key);

	if (there) {
		if (flags == BPF_NOEXIST)
			return -EEXIST;
		memcpy(there, value, map.value_size);
		return 0;
	}
	if (is_array(table) || table->count >= table->map.max_entries)
		return -E2BIG;
	append(table, key, value);
	return 0;
}

long shim_delete(struct shim_map map, const void *key)
{
	struct table *table = table_of(map);
	struct entry **link;

	for (link = &table->entries; *link; link = &(*link)->next) {
		if (memcmp((*link)->key, key, map.key_size))
			continue;
		unlink_entry(table, link);
		return 0;
	}
	return -ENOENT;
}

long shim_push(struct shim_map map, const void *value)
{
	struct table *table = table_of(map);

	if (table->count >= table->map.max_entries)
		return -E2BIG;
	append(table, NULL, value);
	return 0;
}

long shim_pop(struct shim_map map, void *value)
{
	struct table *table = table_of(map);

	if (!table->entries)
		return -ENOENT;
	memcpy(value, table->entries->value, map.value_size);
	unlink_entry(table, &table->entries);
	return 0;
}

uint8_t *shim_place(struct xdp_md *ctx, const uint8_t *frame, size_t length, __u32 ifindex)
{
	static uint8_t *region;

	if (!region) {
		region = mmap((void *)FRAME_ADDRESS, FRAME_REGION, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (region != (uint8_t *)FRAME_ADDRESS) {
			perror("no memory for frames below 4 GiB");
			abort();
		}
	}
	if (length > SHIM_FRAME_MAX)
		abort();
	ASAN_POISON_MEMORY_REGION(region, FRAME_REGION);
	/* ASan's grain is 8 bytes: of what lies in front, the nearest 2 stay readable. */
	ASAN_UNPOISON_MEMORY_REGION(region + (FRAME_OFFSET & ~7ul), (FRAME_OFFSET & 7) + length);
	memcpy(region + FRAME_OFFSET, frame, length);
	*ctx = (struct xdp_md){
		.data = (__u32)(FRAME_ADDRESS + FRAME_OFFSET),
		.data_end = (__u32)(FRAME_ADDRESS + FRAME_OFFSET + length),
		.ingress_ifindex = ifindex,
	};
	return region + FRAME_OFFSET;
}

long bpf_xdp_load_bytes(struct xdp_md *ctx, __u32 offset, void *to, __u32 length)
{
	if ((__u64)offset + length > ctx->data_end - ctx->data)
		return -EINVAL;
	memcpy(to, (const char *)(uintptr_t)ctx->data + offset, length);
	return 0;
}

long bpf_xdp_store_bytes(struct xdp_md *ctx, __u32 offset, void *from, __u32 length)
{
	if ((__u64)offset + length > ctx->data_end - ctx->data)
		return -EINVAL;
	memcpy((char *)(uintptr_t)ctx->data + offset, from, length);
	return 0;
}

__u64 bpf_xdp_get_buff_len(struct xdp_md *ctx)
{
	return ctx->data_end - ctx->data;
}

/* The last byte of an address says what is known of the way there. */
long bpf_fib_lookup(void *ctx, struct bpf_fib_lookup *fib, int size, __u32 flags)
{
	static const long results[] = { BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_NO_NEIGH,
					BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LKUP_RET_NOT_FWDED };
	const unsigned char *address = (const void *)fib->ipv6_dst;
	unsigned last = fib->family == 2 ? address[3] : address[15];

	(void)ctx, (void)size, (void)flags;
	fib->ifindex = 1 + (last >> 2 & 3);
	memset(fib->dmac, 0xd0, sizeof(fib->dmac));
	return results[last & 3];
}

long bpf_redirect(__u32 ifindex, __u64 flags)
{
	(void)flags;
	shim_redirected = ifindex;
	return XDP_REDIRECT;
}

__u64 bpf_jiffies64(void)
{
	static __u64 now = 1000;

	return now++;
}

__u64 bpf_ktime_get_ns(void)
{
	return bpf_jiffies64() * 1000000;
}

__u32 bpf_get_prandom_u32(void)
{
	return bpf_jiffies64();
}

__u32 bpf_get_smp_processor_id(void)
{
	return 0;
}

/* Nobody reads it; but all of it has to be there. */
long bpf_perf_event_output(void *ctx, const void *map, __u64 flags, const void *data, __u64 size)
{
	const struct xdp_md *md = ctx;
	volatile unsigned char sum = 0;
	__u64 i;

	(void)map;
	for (i = 0; i < size; i++)
		sum += ((const unsigned char *)data)[i];
	if (flags >> 32 > md->data_end - md->data)
		abort();
	return flags & 1 ? -ENOSPC : 0;
}
