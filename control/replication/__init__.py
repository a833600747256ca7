# SPDX-License-Identifier: Apache-2.0
"""What the relays of a group tell each other of their flows. docs/adr/0016-replication.md.

    message.py    what is said: rows of flows, and tables that they refer to
    outgoing.py   what this relay's own flows have come to since it last told of them
    incoming.py   flows of others: found out what they mean here, entered, ended
    activity.py   which flows of others have packets here, and keeping alive whose relay is
    group.py      all of that, over the directory
    lease.py      whose relay addresses are whose at the moment
    promises.py   leases that the others grant while the directory is away: question.py over direct.py
    taken.py      addresses of others that this host answers for; announce.py puts them on a link
    handover.py   giving one's calls away before one stops
    joining.py    what of it a daemon has, by its configuration

Nothing of it is on the packet path. What was missed is asked for again, as a list of all flows.
"""
