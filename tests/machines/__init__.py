# SPDX-License-Identifier: Apache-2.0
"""Whole machines, emulated: Debian as its packages make it, provisioned as vagrant/ and bare hosts are."""
