# SPDX-License-Identifier: Apache-2.0
"""Is this host fit to be a relay, and if not, what is to be done?

Each check looks at one thing and comes to one Finding. Nothing is changed, but for a program
that is attached to a link where none is, and detached at once.
"""
