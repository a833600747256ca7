/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the fuzz targets need of the shim, beside the helpers that the program calls. */
#ifndef EARSHOT_FUZZ_SHIM_H
#define EARSHOT_FUZZ_SHIM_H

#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>

/* Empties all maps. Budgets' clock goes on. */
void shim_reset(void);

/* How many entries a map has whose size is set at load. To be called before its first use. */
void shim_size(const void *map, __u32 entries);

#define SHIM_FRAME_MAX 9216

/*
 * Puts a frame where the program finds it: below 4 GiB, since xdp_md has 32 bits
 * for an address, and with all that surrounds it poisoned for ASan. Returns
 * where it is.
 */
uint8_t *shim_place(struct xdp_md *ctx, const uint8_t *frame, size_t length, __u32 ifindex);

/* The link that the last bpf_redirect() named. */
extern __u32 shim_redirected;

#endif
