# SPDX-License-Identifier: Apache-2.0
"""How far the program is from what the kernel's verifier refuses."""

from __future__ import annotations

import pytest

from control import fdinfo, loader
from control.libbpf import BpfObject

pytestmark = pytest.mark.root

# The kernel gives up at 1,000,000. How many it goes through depends on the kernel and on clang: far
# fewer leave room for both. bpf/README.md says how the program stays below.
INSTRUCTIONS_MAX = 100_000


def test_the_verifier_is_done_long_before_it_gives_up() -> None:
    with BpfObject(loader.object_path()) as program:
        program.load()
        instructions = int(fdinfo.read(program.program_fd(loader.PROGRAM))["verified_insns"])
    print(f"the verifier went through {instructions} instructions")
    assert instructions < INSTRUCTIONS_MAX
