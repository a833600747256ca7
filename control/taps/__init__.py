# SPDX-License-Identifier: Apache-2.0
"""Looking at single packets while they pass: what `earshot trace` and `earshot capture` are made of.

``tap`` asks the packet program (bpf/tap.h) to tell of packets, ``filters`` says of which, ``packets``
is what comes out, ``frames`` reads headers, ``pcapng`` writes files. Only the first touches the kernel.
"""
