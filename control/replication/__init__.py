# SPDX-License-Identifier: Apache-2.0
"""What the relays of a group tell each other of their flows. docs/adr/0016-replication.md.

    message.py    what is said: rows of flows, and tables that they refer to
    outgoing.py   what this relay's own flows have come to since it last told of them
    incoming.py   flows of others: found out what they mean here, entered, ended
    activity.py   which flows of others have packets here, and keeping alive whose relay is
    group.py      all of that, over the directory

Nothing of it is on the packet path. What was missed is asked for again, as a list of all flows.
"""
