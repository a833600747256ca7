# SPDX-License-Identifier: Apache-2.0
"""What both daemons tell of themselves: metrics declared before they are made, traces, logs within limits."""
