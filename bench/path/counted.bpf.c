// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * What a shared cache line would cost: either counts the packet and tail-calls the relay, one in a counter that
 * all CPUs write, the other in one for each CPU. All else is the same.
 */
#include "wire.h"

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 1);
} counted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} of_all SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} of_each SEC(".maps");

static __always_inline int count(struct xdp_md *ctx, void *map)
{
	__u32 zero = 0;
	__u64 *packets = bpf_map_lookup_elem(map, &zero);

	if (packets)
		(*packets)++;
	bpf_tail_call(ctx, &counted, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int shared_counter(struct xdp_md *ctx)
{
	return count(ctx, &of_all);
}

SEC("xdp")
int own_counter(struct xdp_md *ctx)
{
	return count(ctx, &of_each);
}

char LICENSE[] SEC("license") = "GPL";
