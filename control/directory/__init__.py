# SPDX-License-Identifier: Apache-2.0
"""The directory: what relays of a region tell each other, through Redis. docs/adr/0015-directory.md.

    target.py    where Redis is
    link.py      the way to Redis: commands with a deadline, whether it answers, pauses before another try
    seal.py      every message and value is encrypted and authenticated, by keys that follow from the fleet's
    journal.py   a stream of sealed messages, bounded, in one order for everyone who reads it
    presence.py  a relay's name, which one running daemon has at a time

Nothing of it is on the packet path, and no relay ends anything because Redis is silent.
"""
