/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * In place of libbpf's header of this name, so that the program compiles for the
 * host unchanged: its maps become keys to tables on the heap, and the helpers that
 * it calls become functions of shim.c.
 */
#ifndef EARSHOT_FUZZ_BPF_HELPERS_H
#define EARSHOT_FUZZ_BPF_HELPERS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stddef.h>

#define SEC(name)
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define barrier() asm volatile("" ::: "memory")
#define barrier_var(variable) asm volatile("" : "+r"(variable))

/* What a map's definition in maps.h says of it. */
struct shim_map {
	const void *identity; /* the definition's address */
	__u32 type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
};

#define SHIM_NUMBER(map, name) (sizeof(*(map)->name) / sizeof(int))
#define SHIM_MAP(map)                                                                                   \
	((struct shim_map){ (map), SHIM_NUMBER(map, type), sizeof(*(map)->key), sizeof(*(map)->value),  \
			    SHIM_NUMBER(map, max_entries) })
/* A queue has no key, and says sizes in place of types. */
#define SHIM_QUEUE(map)                                                                                 \
	((struct shim_map){ (map), SHIM_NUMBER(map, type), 0, SHIM_NUMBER(map, value_size),             \
			    SHIM_NUMBER(map, max_entries) })

#define bpf_map_lookup_elem(map, key) shim_lookup(SHIM_MAP(map), key)
#define bpf_map_update_elem(map, key, value, flags) shim_update(SHIM_MAP(map), key, value, flags)
#define bpf_map_delete_elem(map, key) shim_delete(SHIM_MAP(map), key)
#define bpf_map_push_elem(map, value, flags) shim_push(SHIM_QUEUE(map), value)
#define bpf_map_pop_elem(map, value) shim_pop(SHIM_QUEUE(map), value)

void *shim_lookup(struct shim_map map, const void *key);
long shim_update(struct shim_map map, const void *key, const void *value, __u64 flags);
long shim_delete(struct shim_map map, const void *key);
long shim_push(struct shim_map map, const void *value);
long shim_pop(struct shim_map map, void *value);

long bpf_xdp_load_bytes(struct xdp_md *ctx, __u32 offset, void *to, __u32 length);
long bpf_xdp_store_bytes(struct xdp_md *ctx, __u32 offset, void *from, __u32 length);
__u64 bpf_xdp_get_buff_len(struct xdp_md *ctx);
long bpf_fib_lookup(void *ctx, struct bpf_fib_lookup *fib, int size, __u32 flags);
long bpf_redirect(__u32 ifindex, __u64 flags);
__u64 bpf_jiffies64(void);
__u64 bpf_ktime_get_ns(void);
__u32 bpf_get_prandom_u32(void);
__u32 bpf_get_smp_processor_id(void);
long bpf_perf_event_output(void *ctx, const void *map, __u64 flags, const void *data, __u64 size);

#endif
