/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Fuzz target: the whole program, on some frames in a row.
 *
 * An input is a sequence of {link, length (big-endian, 2 bytes), frame}; the last
 * frame may be cut short. An even link is the clients', an odd one the backends'.
 */
#include "../../bpf/relay.bpf.c"

#include "world.h"

#define FRAMES_MAX 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int frames;

	world_begin();
	for (frames = 0; size > 3 && frames < FRAMES_MAX; frames++) {
		__u32 link = data[0] & 1 ? WORLD_BACKENDS : WORLD_CLIENTS;
		size_t length = data[1] << 8 | data[2];

		data += 3;
		size -= 3;
		if (length > size)
			length = size;
		if (length > SHIM_FRAME_MAX)
			length = SHIM_FRAME_MAX;
		world_run(data, length, link);
		data += length;
		size -= length;
	}
	return 0;
}
