/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The forward index: from a client's 5-tuple to the number of its record. Who
 * writes which word when, and why that holds: docs/flow-table.md. The same hash
 * and the daemon's side of it: control/flow_index.py.
 */
#ifndef EARSHOT_INDEX_H
#define EARSHOT_INDEX_H

#include "maps.h"
#include "parse.h"

#define SLOT_USED (1u << 31)
#define SLOT_NUMBER (FLOW_MAX - 1)
#define NO_NUMBER FLOW_MAX
#define NOT_FOUND (-1)
#define LOOK_AGAIN (-2)
/* Some three microseconds; whoever has a lock keeps it for a fraction of one. */
#define LOCK_TRIES 128

_Static_assert(BUCKET_WORDS == 16, "a search wraps by a mask of 15");

/* Whose a flow is. */
struct target {
	__u32 session;
	__u16 backend;
	__u16 pad;
};

/* Where an entry belongs. */
struct place {
	__u32 bucket; /* its home */
	__u32 start;  /* the word that a search begins at */
	__u32 slot;   /* SLOT_USED and the tag */
};

static __always_inline enum flow_state state_of(const struct flow *flow)
{
	return *(const volatile __u32 *)&flow->state & ((1 << FLOW_STATE_BITS) - 1);
}

/* The same, and what is read of the record after it is not older. */
static __always_inline enum flow_state state_before_fields(const struct flow *flow)
{
	enum flow_state state = state_of(flow);

	barrier();
	return state;
}

/*
 * NH (RFC 4418, 5.2) over the words of the key, then one multiplication that
 * spreads what differs over the upper half: four multiplications that do not wait
 * for each other, and one that does.
 */
static __always_inline struct place place_of(const struct flow_key *key)
{
	const volatile struct layout *l = &settings.layout;
	const __u32 *words = key->client_addr.words;
	__u32 last = *(const __u32 *)&key->client_port;
	__u64 h = (__u64)(words[0] + l->hash_key[0]) * (words[1] + l->hash_key[1]) +
		  (__u64)(words[2] + l->hash_key[2]) * (words[3] + l->hash_key[3]) +
		  (__u64)(last + l->hash_key[4]) * (l->hash_key[5] | 1);

	h = (h ^ h >> 32) * 0x9e3779b97f4a7c15;
	return (struct place){
		.bucket = (h >> 32) * l->buckets >> 32,
		.start = h >> 16 & (BUCKET_WORDS - 1),
		.slot = SLOT_USED | ((__u32)h >> SLOT_NUMBER_BITS & ((1 << SLOT_TAG_BITS) - 1)) << SLOT_NUMBER_BITS,
	};
}

static __always_inline __u32 next_bucket(__u32 bucket)
{
	return bucket + 1 == settings.layout.buckets ? 0 : bucket + 1;
}

static __always_inline int has_key(const struct flow *flow, const struct flow_key *key)
{
	return same_address(&flow->client_addr, &key->client_addr) &&
	       *(const __u32 *)&flow->client_port == *(const __u32 *)&key->client_port;
}

static __always_inline int is_of(const struct flow *flow, const struct target *target)
{
	return flow->session == target->session && flow->backend == target->backend;
}

/*
 * Whether no entry whose home this is can be elsewhere. Both counts in one load:
 * of two moments they could be equal while there is one.
 */
static __always_inline int nothing_spilt(const struct bucket *bucket)
{
	__u64 both = *(const volatile __u64 *)bucket->words;

	return !((both ^ both >> 32) & BUCKET_SPILT_MASK);
}

/*
 * The record with this key in this state, of this target unless that is NULL,
 * among those that a bucket leads to. *number is its number, or that of the last
 * record with the right tag.
 */
static __always_inline struct flow *search_bucket(const struct bucket *bucket, const struct place *place,
						  const struct flow_key *key, enum flow_state state,
						  const struct target *target, __u32 *number)
{
	struct flow *flow;
	__u32 i, word;

	for (i = 0; i < BUCKET_WORDS; i++) {
		word = *(const volatile __u32 *)&bucket->words[(place->start + i) & (BUCKET_WORDS - 1)];
		if ((word ^ place->slot) > SLOT_NUMBER)
			continue;
		*number = word & SLOT_NUMBER;
		flow = bpf_map_lookup_elem(&flows_v2, number);
		if (flow && state_of(flow) == state && has_key(flow, key) && (!target || is_of(flow, target)))
			return flow;
	}
	return NULL;
}

/* Once through all buckets: the number, NOT_FOUND, or LOOK_AGAIN. */
__noinline int find_once(const struct flow_key *key, __u32 state, const struct target *target)
{
	const struct bucket *bucket;
	__u32 turn, number = NO_NUMBER;
	struct place place;

	if (!key)
		return NOT_FOUND;
	place = place_of(key);
	for (turn = 0; turn < SLOT_TURNS; turn++) {
		bucket = bpf_map_lookup_elem(&flow_index_v2, &place.bucket);
		if (!bucket)
			break;
		if (search_bucket(bucket, &place, key, state, target, &number))
			return number;
		if (!turn && nothing_spilt(bucket))
			break;
		place.bucket = next_bucket(place.bucket);
	}
	return number == NO_NUMBER ? NOT_FOUND : LOOK_AGAIN;
}

/*
 * The number of the record with this key in this state, of this target unless that
 * is NULL, or NOT_FOUND. A search may pass the slot that a new record is then
 * entered in, and come to the old one's after that has been superseded. Hence a
 * second one where there was a record to be superseded.
 */
static __always_inline int find(const struct flow_key *key, enum flow_state state, const struct target *target)
{
	int found = find_once(key, state, target);

	return found == LOOK_AGAIN ? find_once(key, state, target) : found;
}

/* The LIVE record with this key, on the hot path: nearly always its home leads there. */
static __always_inline struct flow *find_live(const struct flow_key *key, __u32 *number)
{
	struct place place = place_of(key);
	const struct bucket *home = bpf_map_lookup_elem(&flow_index_v2, &place.bucket);
	struct flow *flow;
	int found;

	if (!home)
		return NULL;
	*number = NO_NUMBER;
	flow = search_bucket(home, &place, key, FLOW_LIVE, NULL, number);
	if (flow || (*number == NO_NUMBER && nothing_spilt(home)))
		return flow;
	found = find_once(key, FLOW_LIVE, NULL);
	if (found < 0)
		return NULL;
	*number = found;
	return bpf_map_lookup_elem(&flows_v2, number);
}

static __always_inline int try_lock(struct bucket *bucket)
{
	volatile __u32 *word = &bucket->words[BUCKET_SPILT];
	__u32 old = *word;

	return !(old & BUCKET_LOCKED) && __sync_val_compare_and_swap(word, old, old | BUCKET_LOCKED) == old;
}

/*
 * Waits for the lock of a home bucket: 1, or 0 where others had it all the while. Its
 * own function to the verifier, which goes through each turn of the loop.
 */
__noinline int wait_for_lock(struct bucket *bucket)
{
	__u32 i;

	if (!bucket)
		return 0;
	for (i = 0; i < LOCK_TRIES; i++) {
		bpf_ktime_get_ns(); /* for want of a pause: some 20 ns, for whoever has it to get on */
		if (try_lock(bucket))
			return 1;
	}
	return 0;
}

static __always_inline int lock_bucket(struct bucket *bucket)
{
	return try_lock(bucket) || wait_for_lock(bucket);
}

/* Only whoever has the lock writes the word, so it may be read first. */
static __always_inline void unlock_bucket(struct bucket *bucket)
{
	volatile __u32 *word = &bucket->words[BUCKET_SPILT];

	__sync_lock_test_and_set(word, *word & ~(__u32)BUCKET_LOCKED);
}

/* Counts an entry in or out of those that are spilt, with the lock held. */
static __always_inline void count_spilt(struct bucket *bucket, __u32 change)
{
	volatile __u32 *word = &bucket->words[BUCKET_SPILT];

	__sync_lock_test_and_set(word, ((*word + change) & BUCKET_SPILT_MASK) | BUCKET_LOCKED);
}

/*
 * Enters a record, with the lock of its home held. Neighbouring homes enter in the
 * same buckets at the same time: hence the compare-and-swap. 0: there is no slot.
 */
static __always_inline int enter(struct bucket *home, struct place place, __u32 number)
{
	struct bucket *bucket = home;
	__u32 turn, i, at;

	for (turn = 0; turn < SLOT_TURNS; turn++) {
		/* Before it is entered: who finds it has to look for it. */
		if (turn == 1)
			count_spilt(home, BUCKET_SPILT_ONE);
		for (i = 0; i < BUCKET_WORDS; i++) {
			at = (place.start + i) & (BUCKET_WORDS - 1);
			if (at < BUCKET_FIRST_SLOT || *(volatile __u32 *)&bucket->words[at])
				continue;
			if (!__sync_val_compare_and_swap(&bucket->words[at], 0, place.slot | number))
				return 1;
		}
		place.bucket = next_bucket(place.bucket);
		bucket = bpf_map_lookup_elem(&flow_index_v2, &place.bucket);
		if (!bucket)
			break;
	}
	count_spilt(home, -BUCKET_SPILT_ONE);
	return 0;
}

#endif
