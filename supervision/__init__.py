# SPDX-License-Identifier: Apache-2.0
"""What both daemons tell the service manager that has started them, if one has."""
