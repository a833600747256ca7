/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * How a flow fares, from what is in the clear: RTP's header (RFC 3550), which
 * SRTP leaves as it is, and STUN's transaction ids. What each figure means:
 * docs/quality.md.
 *
 * The usual packet, the next one of a stream that is known, is dealt with inline;
 * what happens to it now and then is in functions of their own. Counters are
 * plain: two CPUs on one stream may lose a count.
 */
#ifndef EARSHOT_QUALITY_H
#define EARSHOT_QUALITY_H

#include "clock.h"
#include "maps.h"
#include "parse.h"
#include "provisional.h"
#include "stun.h"

#define RTP_FIRST 128 /* of is_rtc()'s first bytes, those from here on are RTP's and RTCP's */
#define RTP_HEADER 12
#define RTCP_FIRST 64 /* payload types 64 to 95 are RTCP's, marker bit aside (RFC 5761, 4) */
#define RTCP_TYPES 32

#define MAX_DROPOUT 3000  /* RFC 3550, A.1: numbers that may be skipped, ... */
#define MAX_MISORDER 100  /* ... or lie behind, before they are taken for another count */
#define WINDOW_BITS 64

#define GAP_NS 200000000ull
#define REPLACE_NS 5000000000ull /* a stream so long silent gives way to a new one */
#define TRIP_NS 1000000000ull	 /* so long an answer is waited for before another request is timed */

/* Spacing in ns to 1/16 of a timestamp unit: (ns >> 4) * clock * SPACING_SCALE >> SPACING_SHIFT. */
#define SPACING_SCALE 879609ull /* CLOCK_UNIT * 16 * 16 / 1e9 * 2^37 */
#define SPACING_SHIFT 37
#define SPACING_MAX (1ull << 36) /* ns; what is longer says nothing of jitter, and would overflow */
#define CLOCK_JUMP (1 << 23)	 /* 1/16 units, 11 s at 48 kHz: the sender's clock was set */

struct rtp {
	__u32 timestamp;
	__u32 ssrc;
	__u16 sequence;
};

/* What a stream of this flow has as its binding. */
static __always_inline __u32 binding_of(__u32 state, enum way way)
{
	return (state & ~((1u << FLOW_STATE_BITS) - 1)) | way;
}

/*
 * When a packet came that may be RTP, ns of CLOCK_MONOTONIC; 0: nobody needs to know. The one clock
 * that is fine enough is a call, hence for RTP alone (clock.h). It also waits until all that was begun
 * before is done: so it is asked before a flow is looked for, and nothing is on its way.
 */
static __always_inline __u64 arrival_of(const struct packet *p)
{
	return settings.quality && p->first >= RTP_FIRST ? bpf_ktime_get_ns() : 0;
}

/*
 * Where RTP of a flow is counted; NULL for all else. Asks for the line that it will
 * most likely need, so that this comes while the flow's own is on its way.
 */
static __always_inline struct quality *expect_rtp(__u64 arrival, __u32 number, enum way way)
{
	struct quality *quality;

	if (!arrival)
		return NULL;
	quality = bpf_map_lookup_elem(&quality_v2, &number);
	if (quality)
		*(const volatile __u64 *)&quality->streams[way].identity;
	return quality;
}

static __always_inline int read_rtp(struct xdp_md *ctx, const struct packet *p, struct rtp *rtp)
{
	void *end = (void *)(long)ctx->data_end;
	__u8 *header = (void *)(long)ctx->data + udp_offset(p) + sizeof(struct udphdr);

	if (p->payload_len < RTP_HEADER || (void *)(header + RTP_HEADER) > end)
		return 0;
	if ((header[1] & 0x7f) - RTCP_FIRST < (__u32)RTCP_TYPES)
		return 0;
	rtp->sequence = bpf_ntohs(*(__be16 *)(header + 2));
	rtp->timestamp = bpf_ntohl(*(__be32 *)(header + 4));
	rtp->ssrc = bpf_ntohl(*(__be32 *)(header + 8));
	return 1;
}

/* All that is not of one stream, emptied if it is of another flow. */
static __always_inline void renew_quality(struct quality_more *more, __u32 binding, __u16 clock)
{
	__builtin_memset(more->trips, 0, sizeof(more->trips));
	more->unmeasured = 0;
	more->clock = clock;
	more->binding = binding;
}

/* Of a flow that is being bound, to a session with this clock (0: the usual one). */
static __always_inline void begin_quality(__u32 number, __u32 state, __u16 clock)
{
	struct quality_more *more;

	if (!settings.quality)
		return;
	more = bpf_map_lookup_elem(&quality_more_v1, &number);
	if (more)
		renew_quality(more, binding_of(state, 0), clock ? clock : CLOCK_USUAL);
}

static __always_inline void begin_stream(struct stream *stream, __u64 identity, __u16 clock, __u64 now,
					 __u32 timestamp, __u16 sequence)
{
	__builtin_memset(stream, 0, sizeof(*stream));
	stream->identity = identity;
	stream->clock = clock;
	stream->arrival = now;
	stream->began = now >> FLOW_TICK_SHIFT;
	stream->timestamp = timestamp;
	stream->highest = sequence;
	stream->suspect = sequence;
	stream->window = 1;
	stream->received = 1;
}

/* The places of a flow, first those of both ways. */
static __always_inline struct stream *stream_at(struct quality *quality, struct quality_more *more, __u32 place)
{
	return place < 2 ? &quality->streams[place] : &more->streams[place & 1];
}

/* NULL: it has none yet. */
static __always_inline struct stream *find_stream(struct quality *quality, struct quality_more *more, __u64 identity)
{
	__u32 i;

	for (i = 0; i < FLOW_STREAMS; i++)
		if (stream_at(quality, more, i)->identity == identity)
			return stream_at(quality, more, i);
	return NULL;
}

/*
 * A place for a new stream: one that is free, else that of the stream that has
 * been silent longest, if long enough; or NULL.
 */
static __always_inline struct stream *find_place(struct quality *quality, struct quality_more *more, __u64 identity,
						 __u64 now)
{
	__u32 flow = binding_of(identity, 0), way = identity & 1, i;
	struct stream *stream, *chosen = NULL;
	__s64 silence, longest = REPLACE_NS;

	for (i = 0; i < FLOW_STREAMS; i++) {
		/* From its first place on; that of the other way comes last. */
		stream = stream_at(quality, more, i == 0 ? way : i == FLOW_STREAMS - 1 ? !way : i + 1);
		if (binding_of(stream->identity, 0) != flow)
			return stream;
		silence = now - stream->arrival;
		if (silence > longest) {
			longest = silence;
			chosen = stream;
		}
	}
	return chosen;
}

/* What a packet is to its stream. */
enum step {
	STEP_STRAY, /* not of it, as far as can be told */
	STEP_KNOWN,
	STEP_ANEW, /* numbers begin again, and perhaps timestamps */
};

/*
 * Counts a packet, whatever its number is (RFC 3550, A.1). One far from the others is
 * the stream's only once the one after it has come, too.
 */
static __always_inline enum step count_packet(struct stream *stream, __u16 sequence)
{
	__u16 ahead = sequence - stream->highest, behind = stream->highest - sequence;

	if (ahead && ahead < MAX_DROPOUT) {
		stream->window = ahead < WINDOW_BITS ? stream->window << ahead | 1 : 1;
		stream->highest = sequence;
		stream->lost += ahead - 1;
		stream->received++;
		return STEP_KNOWN;
	}
	if (behind < MAX_MISORDER) {
		__u64 bit = behind < WINDOW_BITS ? 1ull << behind : 0; /* one that is too old to tell was late */
		__u32 expected = stream->received + stream->lost;

		if (stream->window & bit) {
			stream->duplicates++;
			return STEP_KNOWN;
		}
		stream->window |= bit;
		stream->reordered++;
		stream->received++;
		if (behind >= expected)
			stream->lost += behind - expected; /* sent before what seemed to be the first */
		else if (stream->lost)
			stream->lost--;
		return STEP_KNOWN;
	}
	if (stream->suspect != sequence) {
		stream->suspect = sequence + 1;
		return STEP_STRAY;
	}
	/* Both are the stream's; nothing was lost in between that anybody could count. */
	stream->received += 2;
	stream->highest = sequence;
	stream->window = 3;
	if (stream->clock >> CLOCK_BITS < 15)
		stream->clock += 1 << CLOCK_BITS;
	return STEP_ANEW;
}

static __always_inline void add_gap(struct stream *stream, __u64 spacing)
{
	__u64 milliseconds = spacing / 1000000;

	if (stream->gaps < 0xffff)
		stream->gaps++;
	if (milliseconds > 0xffff)
		milliseconds = 0xffff;
	if (milliseconds > stream->longest_gap)
		stream->longest_gap = milliseconds;
}

/* Interarrival jitter (RFC 3550, A.8), of spacing in 1/16 of a timestamp unit. */
static __always_inline void add_jitter(struct stream *stream, __u64 spacing, __u32 timestamp)
{
	__u64 clock = stream->clock & ((1 << CLOCK_BITS) - 1);
	__s64 difference = (spacing >> 4) * clock * SPACING_SCALE >> SPACING_SHIFT;
	__u32 jitter = stream->jitter, peak;

	difference -= (__s64)(__s32)(timestamp - stream->timestamp) * 16;
	if (difference < 0)
		difference = -difference;
	if (difference >= CLOCK_JUMP)
		return;
	jitter += difference - ((jitter + 8) >> 4);
	stream->jitter = jitter;
	peak = jitter >> 8;
	if (peak > stream->peak_jitter)
		stream->peak_jitter = peak > 0xffff ? 0xffff : peak;
}

/*
 * A packet that is not the next one of a stream in its first place, or comes after a
 * gap. A function of its own, which takes all that is left to do: so the usual packet
 * keeps nothing for after a call.
 */
__noinline int measure_unusual(__u32 number, __u64 identity, __u64 now, __u32 timestamp, __u32 sequence)
{
	struct quality_more *more = bpf_map_lookup_elem(&quality_more_v1, &number);
	struct quality *quality = bpf_map_lookup_elem(&quality_v2, &number);
	__u32 flow = binding_of(identity, 0);
	struct stream *stream;
	enum step step;
	__u64 spacing;

	if (!quality || !more)
		return 0;
	stream = find_stream(quality, more, identity);
	if (!stream) {
		if (more->binding != flow)
			renew_quality(more, flow, CLOCK_USUAL);
		stream = find_place(quality, more, identity, now);
		if (stream)
			begin_stream(stream, identity, more->clock, now, timestamp, sequence);
		else
			more->unmeasured++;
		return 0;
	}
	spacing = now - stream->arrival;
	if ((__s64)spacing < 0) /* of two CPUs */
		spacing = 0;
	step = count_packet(stream, sequence);
	if (step == STEP_STRAY)
		return 0;
	if (spacing > GAP_NS)
		add_gap(stream, spacing);
	if (spacing < SPACING_MAX && step == STEP_KNOWN)
		add_jitter(stream, spacing, timestamp);
	stream->arrival = now;
	stream->timestamp = timestamp;
	return 0;
}

static __always_inline void measure_rtp(struct xdp_md *ctx, const struct packet *p, struct quality *quality,
					__u32 number, __u32 state, enum way way, __u64 now)
{
	struct stream *stream = &quality->streams[way];
	__u64 identity, spacing = now - stream->arrival;
	struct rtp rtp;

	if (!read_rtp(ctx, p, &rtp))
		return;
	identity = (__u64)rtp.ssrc << 32 | binding_of(state, way);
	/* Of two CPUs, spacing may be negative, which is a very long one here. */
	if (stream->identity != identity || rtp.sequence != (__u16)(stream->highest + 1) || spacing > GAP_NS) {
		measure_unusual(number, identity, now, rtp.timestamp, rtp.sequence);
		return;
	}
	stream->highest = rtp.sequence;
	stream->window = stream->window << 1 | 1;
	stream->received++;
	add_jitter(stream, spacing, rtp.timestamp);
	stream->arrival = now;
	stream->timestamp = rtp.timestamp;
}

/*
 * A Binding Request, or an answer to one, that is forwarded that way. What is asked
 * twice is not timed: the answer may be to either (RFC 8489, 6.2.1). `kind`: the
 * message's type, behind enum way.
 */
__noinline int time_trip(struct xdp_md *ctx, const struct packet *p, __u32 number, __u32 state, __u32 kind)
{
	__u32 type = kind & 0xffff, way = kind >> 16 & 1, binding = binding_of(state, 0);
	struct quality_more *more = bpf_map_lookup_elem(&quality_more_v1, &number);
	__u64 transaction, now, took;
	struct trip *trip;

	if (!p || !more || transaction_of(ctx, p, &transaction))
		return 0;
	if (more->binding != binding)
		renew_quality(more, binding, CLOCK_USUAL);
	trip = &more->trips[type == STUN_BINDING_REQUEST ? way : !way];
	now = bpf_ktime_get_ns();
	took = now - trip->asked_at;
	if (type != STUN_BINDING_REQUEST) {
		if (!trip->asked_at || trip->transaction != transaction)
			return 0;
		took /= 1000;
		trip->microseconds = took > 0xffffffff ? 0xffffffff : took ? took : 1;
		trip->answered_at = now >> FLOW_TICK_SHIFT;
		trip->asked_at = 0;
	} else if (trip->transaction == transaction) {
		trip->asked_at = 0;
	} else if (!trip->asked_at || took > TRIP_NS) {
		trip->transaction = transaction;
		trip->asked_at = now;
	}
	return 0;
}

/*
 * A packet of a flow that may pass. `quality`: as expect_rtp() said; `state`: the flow's;
 * `stun_type`: 0 where it is not STUN; `arrival`: as arrival_of() said.
 */
static __always_inline void measure(struct xdp_md *ctx, const struct packet *p, struct quality *quality,
				    __u32 number, __u32 state, enum way way, __u16 stun_type, __u64 arrival)
{
	if (!settings.quality)
		return;
	if (quality)
		measure_rtp(ctx, p, quality, number, state, way, arrival);
	else if (stun_type == STUN_BINDING_REQUEST || stun_type == STUN_BINDING_SUCCESS)
		time_trip(ctx, p, number, state, way << 16 | stun_type);
}

#endif
