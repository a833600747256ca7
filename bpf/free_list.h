/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Numbers of free records: XDP takes them here; only the daemon gives them back (docs/flow-table.md). */
#ifndef EARSHOT_FREE_LIST_H
#define EARSHOT_FREE_LIST_H

#include "maps.h"

/* Each try that fails means that another CPU has taken one meanwhile. */
#define TAKE_TRIES 32

/* A number for a flow of this family: UNDECIDED, or the reason that there is none. */
static __always_inline enum reason take_number(__u32 family, __u32 *number)
{
	struct free_list *list = bpf_map_lookup_elem(&free_lists_v1, &family);
	const struct free_line *line;
	__u32 i, head, next, at;

	if (!list)
		return REASON_ABORTED_BAD_NUMBER;
	for (i = 0; i < TAKE_TRIES; i++) {
		head = *(volatile __u32 *)&list->head;
		if (head == *(volatile __u32 *)&list->tail)
			return REASON_DROP_FLOWS_FULL;
		at = (list->first + head) / FREE_LINE;
		line = bpf_map_lookup_elem(&free_flows_v2, &at);
		if (!line)
			return REASON_ABORTED_BAD_NUMBER;
		/* Read before the head moves: after that, the place is the daemon's. */
		*number = *(volatile __u32 *)&line->numbers[(list->first + head) % FREE_LINE];
		next = head + 1 == list->size ? 0 : head + 1;
		if (__sync_val_compare_and_swap(&list->head, head, next) == head)
			return UNDECIDED;
	}
	return REASON_DROP_BUSY;
}

#endif
