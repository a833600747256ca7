# SPDX-License-Identifier: Apache-2.0
"""What takes a Debian that is to be downloaded and booted is not of every day: scripts/nightly does it."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("EARSHOT_MACHINE") else ["test_machine.py"]
