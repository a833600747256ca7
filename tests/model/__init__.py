# SPDX-License-Identifier: Apache-2.0
"""A second opinion on what happens to a packet: docs/packet-semantics.md in plain Python.

Written from that text and from the RFCs it names, not from the program: slow, without
anything shared with it, to be read beside the text. `relay.Relay.handle` is the whole of
it for packets, `daemon.Daemon` for what is done between them; the numbers in comments
(3.4, 5.1) are those of the text's rules.

    wire       a frame taken apart (1 and 2)
    stun       messages, attributes, FINGERPRINT, MESSAGE-INTEGRITY
    state      what the maps hold
    fib        the kernel's routes as data
    budget     token buckets, given a clock
    checksums  the Internet checksum
    rewrite    what a forwarded frame looks like (5.2)
    table      records, what they lead to, and how one is made
    relay      the rules for a packet, in order
    daemon     flows of other relays, and how flows end (6)
"""
