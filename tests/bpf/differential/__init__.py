# SPDX-License-Identifier: Apache-2.0
"""The program and the plain model of tests/model on the same packets.

people   sessions and clients
twists   what is odd about a packet
steps    packets as recipes
acts     what is no packet: the fleet changes, flows of other relays are entered, sessions end
starts   states that cases begin with
cases    hypothesis' strategies for all of these
stored   the model's objects as the maps have them
held     all that either holds
twin     program and model side by side
"""
