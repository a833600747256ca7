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
	enum bucket_word bucket_word;
	enum bucket_bit bucket_bit;
	enum slot_bit slot_bit;
	enum tap_match tap_match;
	enum tap_direction tap_direction;
	enum way way;
};

/* Alone in .rodata: constants to the verifier and the JIT, set by the daemon before it loads. */
struct settings {
	struct layout layout; /* what layout_v1 holds */
	__u64 relay_ratio;    /* 2^RELAY_RATIO_SHIFT / layout.span, rounded up: flow.h */
	/* The clock: clock.h. */
	__u64 jiffy_ns;
	__u64 jiffy_offset;
	/* Budgets (budget.h): ns per token, and ns of tokens saved at most. 0: off. */
	__u64 source_interval;
	__u64 source_burst;
	__u64 binding_interval;
	__u64 binding_burst;
	__u64 session_interval;
	__u64 session_burst;
	__u64 quality; /* 0: none is measured, and quality_v2 and quality_more_v1 have one entry, of no use */
	struct abi_enums enums;
};
const volatile struct settings settings = { .jiffy_ns = 1 };

/* Written once, by the daemon that makes the maps; one entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct layout);
	__uint(max_entries, 1);
} layout_v1 SEC(".maps");

/* Our addresses. Written by the daemon; read for every packet; one entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct locals);
	__uint(max_entries, 1);
} locals_v2 SEC(".maps");

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
 * Read for every packet. Entry 0 is no hop.
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

/* XDP's alone: hop.h. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct last_hop);
	__uint(max_entries, 1);
} last_hop_v1 SEC(".maps");

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

/* By key number. Written by the daemon; read for requests whose ufrag nobody has registered. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct fleet_key);
	__uint(max_entries, FLEET_KEY_MAX);
} fleet_keys_v1 SEC(".maps");

/* By a transceiver's number in the fleet. Written by the daemon; read likewise. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct fleet_owner);
	__uint(max_entries, FLEET_OWNER_MAX);
} fleet_owners_v1 SEC(".maps");

/* Budgets of new flows of sessions that nobody has registered: XDP's alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* as sources_v2 */
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, DERIVED_CELLS);
} derived_v1 SEC(".maps");

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
 * The flow table: docs/flow-table.md says who may write which word when. Written
 * by XDP (binding, counters) and by the daemon (ending); read by both and by the
 * CLI. A record for each port of each relay address.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow);
	__uint(max_entries, 1);
} flows_v2 SEC(".maps");

/*
 * How flows fare, by their numbers. XDP's alone, but for the daemon that carries
 * calls over; read by daemon and CLI. As many as there are flows, or one.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct quality);
	__uint(max_entries, 1);
} quality_v2 SEC(".maps");

/* Likewise. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct quality_more);
	__uint(max_entries, 1);
} quality_more_v1 SEC(".maps");

/* From a client's 5-tuple to its record. Entered by XDP, removed by the daemon. A bucket for six records. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct bucket);
	__uint(max_entries, 1);
} flow_index_v2 SEC(".maps");

/* Rings of numbers of free records, shuffled. Filled by the daemon, taken from by XDP. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct free_line);
	__uint(max_entries, 1);
} free_flows_v2 SEC(".maps");

/* Where in free_flows the rings are: by family, IPv4 and IPv6. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct free_list);
	__uint(max_entries, 2);
} free_lists_v1 SEC(".maps");

/*
 * Written by the daemon, when it has renewed its lease of the relay addresses; read when
 * a flow is bound. So it holds also while the daemon is frozen. One entry.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct lease);
	__uint(max_entries, 1);
} lease_v1 SEC(".maps");

/* Budgets of sources, by hash: XDP's alone. Sources that share a cell share a budget. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* tests look at all of it, after every packet */
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, SOURCE_CELLS);
} sources_v2 SEC(".maps");

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

/* What was dropped last, by 5-tuple. Written by XDP for every drop; read by the CLI. 16 KiB a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct last_drops);
	__uint(max_entries, 1);
} last_drops_v1 SEC(".maps");

/* Who looks at packets. Written by the CLI (control/taps); its first word is read for every packet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct taps);
	__uint(max_entries, 1);
} taps_v1 SEC(".maps");

/*
 * Where packets go to that somebody looks at: a ring for each tap and CPU, which are the
 * CLI's. They are gone from here as soon as its process is, however it ended.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, TAP_MAX * TAP_CPUS);
} tap_rings_v1 SEC(".maps");

/* XDP's alone: what is to be told of the packet at hand. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct tap_event);
	__uint(max_entries, 1);
} tap_event_v1 SEC(".maps");

/* XDP's alone: see integrity.h. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct scratch);
	__uint(max_entries, 1);
} scratch_v3 SEC(".maps");

/* By enum reason. Written by XDP for every packet; read by daemon and CLI. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct reason_counter);
	__uint(max_entries, REASON_MAX);
} reasons_v1 SEC(".maps");

#endif
