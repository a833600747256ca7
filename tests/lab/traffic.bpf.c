// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Voice calls without sockets: what both ends of hundreds of calls send, and a
 * count of what arrives, stream by stream. A stream is one direction of a call.
 *
 * talk_up and talk_down run on live frames (BPF_F_TEST_XDP_LIVE_FRAMES). Each
 * run writes the next stream's next packet and sends it out by the stream's
 * link. listen is attached where streams end: it takes what carries the mark,
 * looks whether it came out as it should, and lets everything else pass.
 *
 * A packet holds the number of its stream, a sequence number, and the sequence
 * number's complement, which keeps the UDP checksum what it was.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME_WORDS 27 /* of 8 bytes */
#define STREAMS 4096
#define MARK 0x80ea7281 /* the first byte is RTP's */

struct payload {
	__be32 mark;
	__u32 stream;
	__u32 sequence;
	__u32 complement;
} __attribute__((packed));

struct address {
	__u32 words[4]; /* IPv4 as IPv4-mapped */
};

struct stream {
	__u64 frame[FRAME_WORDS]; /* sequence 0 */
	/* How it has to arrive. */
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 ifindex; /* the link that it is sent out by; 0: it is silent */
	__u32 sent;
	__u32 newest; /* sequence number that has arrived */
	__u32 received;
	__u32 repeated; /* or overtaken by a later one */
	__u32 wrong; /* not as it has to arrive */
	__u32 reserved;
	__u64 arrived_at; /* the newest; ns of CLOCK_MONOTONIC */
	__u64 silence; /* the longest between two, ns */
};

/* Of each direction: its streams follow each other. */
struct turns {
	__u32 first;
	__u32 streams;
	__u32 next;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct stream);
	__uint(max_entries, STREAMS);
} streams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct turns);
	__uint(max_entries, 2);
} turns SEC(".maps");

/* By ifindex: the MAC address that packets to that link have to be for. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 64);
} macs SEC(".maps");

static __always_inline int talk(struct xdp_md *ctx, __u32 direction)
{
	void *end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct turns *turn = bpf_map_lookup_elem(&turns, &direction);
	struct payload *payload;
	struct ethhdr *eth = data;
	struct stream *stream;
	__u64 *words = data;
	__u32 number, i;

	if (!turn || !turn->streams || (void *)(words + FRAME_WORDS) > end)
		return XDP_DROP;
	number = turn->first + turn->next;
	turn->next = turn->next + 1 < turn->streams ? turn->next + 1 : 0;
	stream = bpf_map_lookup_elem(&streams, &number);
	if (!stream || !stream->ifindex)
		return XDP_DROP;
	for (i = 0; i < FRAME_WORDS; i++)
		words[i] = stream->frame[i];
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		payload = data + ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr);
	else
		payload = data + ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct udphdr);
	payload->sequence = ++stream->sent;
	payload->complement = ~payload->sequence;
	return bpf_redirect(stream->ifindex, 0);
}

SEC("xdp")
int talk_up(struct xdp_md *ctx)
{
	return talk(ctx, 0);
}

SEC("xdp")
int talk_down(struct xdp_md *ctx)
{
	return talk(ctx, 1);
}

static __always_inline int same(const struct address *a, const struct address *b)
{
	return !((a->words[0] ^ b->words[0]) | (a->words[1] ^ b->words[1]) |
		 (a->words[2] ^ b->words[2]) | (a->words[3] ^ b->words[3]));
}

static __always_inline void note(struct stream *stream, __u32 sequence)
{
	__u64 now = bpf_ktime_get_ns();

	if (stream->arrived_at && now - stream->arrived_at > stream->silence)
		stream->silence = now - stream->arrived_at;
	stream->arrived_at = now;
	if ((__s32)(sequence - stream->newest) <= 0) {
		stream->repeated++;
		return;
	}
	stream->newest = sequence;
	stream->received++;
}

SEC("xdp")
int listen(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct address source = {}, destination = {};
	__u32 ifindex = ctx->ingress_ifindex, number;
	struct payload *payload;
	struct ethhdr *eth = data;
	struct stream *stream;
	struct udphdr *udp;
	__u64 mac = 0, *ours;

	if (data + ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(*udp) + sizeof(*payload) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + ETH_HLEN;

		if (ip->ihl != 5 || ip->protocol != IPPROTO_UDP)
			return XDP_PASS;
		source.words[2] = destination.words[2] = bpf_htonl(0xffff);
		source.words[3] = ip->saddr;
		destination.words[3] = ip->daddr;
		udp = (void *)(ip + 1);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		if (ip->nexthdr != IPPROTO_UDP)
			return XDP_PASS;
		__builtin_memcpy(&source, &ip->saddr, sizeof(source));
		__builtin_memcpy(&destination, &ip->daddr, sizeof(destination));
		udp = (void *)(ip + 1);
	} else {
		return XDP_PASS;
	}
	payload = (void *)(udp + 1);
	if ((void *)(payload + 1) > end || payload->mark != bpf_htonl(MARK))
		return XDP_PASS;
	number = payload->stream;
	stream = bpf_map_lookup_elem(&streams, &number);
	if (!stream)
		return XDP_DROP;
	__builtin_memcpy(&mac, eth->h_dest, ETH_ALEN);
	ours = bpf_map_lookup_elem(&macs, &ifindex);
	if (!ours || *ours != mac || payload->complement != ~payload->sequence ||
	    udp->source != stream->source_port || udp->dest != stream->destination_port ||
	    !same(&source, &stream->source) || !same(&destination, &stream->destination))
		stream->wrong++;
	else
		note(stream, payload->sequence);
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
