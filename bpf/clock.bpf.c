// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Tells the time twice: in jiffies, as the packet program will read it, and by
 * CLOCK_MONOTONIC. Run by control/jiffies.py; never attached.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Writes over a packet of at least 16 bytes: the jiffies since boot, and the nanoseconds. */
SEC("xdp")
int read_clocks(struct xdp_md *ctx)
{
	__u64 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + 2 > end)
		return XDP_ABORTED;
	data[0] = bpf_jiffies64();
	data[1] = bpf_ktime_get_ns();
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
