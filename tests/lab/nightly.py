# SPDX-License-Identifier: Apache-2.0
"""Whether it is night: with EARSHOT_NIGHTLY set, as scripts/nightly does, what takes long runs as well.

Tests that are of the night alone are marked `nightly`, and left out in the day; others take more rounds then.
"""

from __future__ import annotations

import os

NIGHTLY = bool(os.environ.get("EARSHOT_NIGHTLY"))
