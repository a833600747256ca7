# SPDX-License-Identifier: Apache-2.0
"""What both daemons tell of themselves: metrics that are declared before they are made, and traces."""
