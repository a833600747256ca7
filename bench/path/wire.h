/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What generator, sink and blind forwarder agree on with traffic.py: packets of RTP whose SSRC is the number
 * of their flow, so that whoever gets one can say what should have become of it.
 *
 * Both families' headers without options; behind UDP there may be a tag (TURN's ChannelData header), then
 * RTP's twelve bytes, then eight of a time stamp.
 */
#ifndef EARSHOT_BENCH_WIRE_H
#define EARSHOT_BENCH_WIRE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* One end of a flow: the number of the flow, as far as the masks let it, is counted onto address and port. */
struct end {
	__be32 address[4]; /* only the last word of IPv4 */
	__u32 address_mask;
	__u16 port; /* host byte order */
	__u16 port_mask;
};

struct rtp {
	__be32 first; /* version, payload type, sequence number */
	__be32 timestamp;
	__u32 flow; /* where the SSRC is */
	__u64 sent; /* nanoseconds of CLOCK_MONOTONIC; of probes alone */
} __attribute__((packed));

#define RTP_MEDIA bpf_htonl(0x806f0001)
#define RTP_PROBE bpf_htonl(0x80700001) /* to be sent back, and timed */

static __always_inline __u32 sum_word(__u32 word)
{
	return (word & 0xffff) + (word >> 16);
}

/* The checksum of a sum (RFC 1071). */
static __always_inline __u16 checksum(__u32 sum)
{
	sum = sum_word(sum);
	return ~(__u16)sum_word(sum);
}

static __always_inline __be32 address_of(const volatile struct end *end, __u32 flow)
{
	return bpf_htonl(bpf_ntohl(end->address[3]) + (flow & end->address_mask));
}

static __always_inline __be16 port_of(const volatile struct end *end, __u32 flow)
{
	return bpf_htons(end->port + (flow & end->port_mask));
}

#endif
