# SPDX-License-Identifier: Apache-2.0
"""A discrete-event model of a fleet that no machine here could run.

`assumptions.toml` has what each thing costs and where that figure is from; `capacity` adds up what a fleet
needs and finds what is spent first; `directory`, `members`, `calls` and `takeover` are the parts that move,
in SimPy; `scenarios` takes a relay or Redis away. Calls are counted, never made one by one: a process stands
for a relay, and what it handles are cohorts, so many calls that began in the same hundredth of a second.
"""
