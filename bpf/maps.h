/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The maps. Above each: who writes, who reads, how big. Sizes given as 1 are
 * set by the daemon at load, from its configuration. The number at the end of
 * a name is the version of its layout and meaning (abi.h).
 */
#ifndef EARSHOT_MAPS_H
#define EARSHOT_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/* Never read: an enum stays in BTF, where Python finds it, only if something has its type. */
struct abi_enums {
	enum limit limit;
	enum reason reason;
	enum local_kind local_kind;
	enum session_flag session_flag;
	enum flow_state flow_state;
	enum hop_state hop_state;
};

/* Alone in .rodata: constants to the verifier and the JIT, set by the daemon before it loads. */
struct settings {
	__u16 port_min; /* relay port range, host byte order, both ends included */
	__u16 port_max;
	__u32 port_bits; /* 2^port_bits is at least the size of the range */
	/* Budgets (budget.h): ns per token, and ns of tokens saved at most. 0: off. */
	__u64 source_interval;
	__u64 source_burst;
	__u64 binding_interval;
	__u64 binding_burst;
	__u64 session_interval;
	__u64 session_burst;
	struct abi_enums enums;
};
const volatile struct settings settings = { .port_min = 1024, .port_max = 65535, .port_bits = 16 };

/* Our addresses. Written by the daemon; read for every packet; one entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct locals);
	__uint(max_entries, 1);
} locals_v1 SEC(".maps");

/* Written by the daemon; read for packets to clients. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct vip);
	__uint(max_entries, VIP_MAX);
} vips_v1 SEC(".maps");

/* Written by the daemon; read for packets to transceivers. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct relay);
	__uint(max_entries, RELAY_MAX);
} relays_v1 SEC(".maps");

/* By ifindex. Written by the daemon; read when a flow is bound. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct link_info);
	__uint(max_entries, 64);
} links_v1 SEC(".maps");

/*
 * Next hops. An entry is filled once by whoever took its number off free_hops
 * (XDP for clients, the daemon for backends) and kept fresh by the daemon.
 * Read for every packet. Entry 0 is never used.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct hop);
	__uint(max_entries, HOP_MAX);
} hops_v1 SEC(".maps");

/* Which number a neighbour has in hops. Written by XDP and the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct hop_key);
	__type(value, __u32);
	__uint(max_entries, HOP_MAX);
} hop_index_v1 SEC(".maps");

/* Numbers of unused hops. Filled by the daemon, popped by XDP and the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(key_size, 0);
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, HOP_MAX);
} free_hops_v1 SEC(".maps");

/*
 * Sessions by server ufrag. Written by the daemon; read for Binding Requests,
 * which write full_at.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct ufrag_key);
	__type(value, struct session);
	__uint(max_entries, 1);
} sessions_v1 SEC(".maps");

/* Transceivers by number. The daemon's alone: XDP never looks at a name. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct owner);
	__uint(max_entries, OWNER_MAX);
} owners_v1 SEC(".maps");

/* Written by the daemon; read for every packet. Entry 0 is never used. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct backend);
	__uint(max_entries, 1);
} backends_v1 SEC(".maps");

/*
 * The flow table. Written by XDP (binding, counters) and by the daemon (ending),
 * each word by one of them at a time; read by both and by the CLI.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow);
	__uint(max_entries, 1);
} flows_v1 SEC(".maps");

/* Forward index. Entered by XDP, removed by the daemon. As large as flows. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct flow_key);
	__type(value, __u32);
	__uint(max_entries, 1);
} flow_index_v1 SEC(".maps");

/* Numbers of free records on IPv4 relay addresses, shuffled. As large as flows. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(key_size, 0);
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 1);
} free_flows4_v1 SEC(".maps");

/* The same for IPv6 relay addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(key_size, 0);
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 1);
} free_flows6_v1 SEC(".maps");

/* Budgets of sources: XDP's alone. The least recently used are forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct address);
	__type(value, __u64);
	__uint(max_entries, 65536);
} sources_v1 SEC(".maps");

/* Sources without a budget. Written by the daemon; read for who is over it. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, __u8);
	__uint(max_entries, 1024);
} exempt_v1 SEC(".maps");

/* The budget of new flows: XDP's alone. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} bindings_v1 SEC(".maps");

/* XDP's alone: see integrity.h. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct scratch);
	__uint(max_entries, 1);
} scratch_v1 SEC(".maps");

/* By enum reason. Written by XDP for every packet; read by daemon and CLI. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct reason_counter);
	__uint(max_entries, REASON_MAX);
} reasons_v1 SEC(".maps");

#endif
