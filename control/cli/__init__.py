# SPDX-License-Identifier: Apache-2.0
"""`earshot`: what an operator sees of a relay host, and the undo of what the daemon set up.

It reads the pinned maps, not the daemon. Data goes to stdout, all else to stderr.
"""

from control.cli.main import main

__all__ = ["main"]
