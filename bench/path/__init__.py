# SPDX-License-Identifier: Apache-2.0
"""The whole path through a relay, beside others: `scripts/bench path` and `scripts/bench scaling`."""
