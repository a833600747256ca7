/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Lets every packet pass. What XDP sends into a veth waits in a ring until the
 * other end has a program of its own: one like this.
 */
__attribute__((section("xdp"), used)) int pass(void *packet)
{
	return 2; /* XDP_PASS */
}
