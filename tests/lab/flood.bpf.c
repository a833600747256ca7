// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Makes a flood: run on live frames (BPF_F_TEST_XDP_LIVE_FRAMES), it writes
 * each frame anew, from a template and at random, and sends it out by a link.
 * Anew each time, since frames are recycled as their receiver left them.
 *
 * IPv4 and UDP only, checksum of UDP 0: to an XDP program a packet like any other.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME_WORDS 32 /* of 8 bytes */
#define HEADERS (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr))

struct template {
	__u64 words[FRAME_WORDS]; /* the frame; its header checksum as if its source were 0.0.0.0 */
	__u32 ifindex;
	__u32 source;	   /* network of the sources, host byte order */
	__u32 source_mask; /* the bits of it that are random */
	__u32 random_from; /* first byte that is random; the frame's length: none */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct template);
	__uint(max_entries, 1);
} template SEC(".maps");

SEC("xdp")
int flood(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	__u64 *words = data;
	struct iphdr *ip = data + ETH_HLEN;
	struct udphdr *udp = (void *)(ip + 1);
	const struct template *from;
	__u32 zero = 0, random = bpf_get_prandom_u32(), source, sum, i;

	from = bpf_map_lookup_elem(&template, &zero);
	if (!from || (void *)(words + FRAME_WORDS) > end)
		return XDP_DROP;
	for (i = 0; i < FRAME_WORDS; i++) {
		__u32 kept = from->random_from > i * 8 ? from->random_from - i * 8 : 0;
		__u64 mask = kept >= 8 ? 0 : ~0ull << kept * 8; /* as a little-endian host has them */
		__u64 noise = 0;

		if (mask)
			noise = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
		words[i] = (from->words[i] & ~mask) | (noise & mask);
	}
	source = from->source | (random & from->source_mask);
	ip->saddr = bpf_htonl(source);
	sum = (__u16)~bpf_ntohs(ip->check) + (source >> 16) + (source & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = bpf_htons(~((sum & 0xffff) + (sum >> 16)));
	udp->source = bpf_htons(1024 + (bpf_get_prandom_u32() & 0x7fff));
	return bpf_redirect(from->ifindex, 0);
}

char LICENSE[] SEC("license") = "GPL";
