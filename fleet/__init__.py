# SPDX-License-Identifier: Apache-2.0
"""What relays and transceivers of a fleet have in common: its keys, and ufrags that are made with them.

Knows neither daemon. The XDP program has the same in bpf/routable.h; docs/routable-ufrag.md says it in words.
"""
