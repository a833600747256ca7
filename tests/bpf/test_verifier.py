# SPDX-License-Identifier: Apache-2.0
"""How far the program is from what the kernel's verifier refuses."""

from __future__ import annotations

import re
import subprocess

import pytest

from control import fdinfo, loader, pinned
from control.libbpf import BpfObject

pytestmark = pytest.mark.root

# The kernel gives up at 1,000,000. How many it goes through depends on the kernel and on clang: far
# fewer leave room for both. bpf/README.md says how the program stays below.
INSTRUCTIONS_MAX = 100_000


def test_the_verifier_is_done_long_before_it_gives_up() -> None:
    with BpfObject(pinned.object_path()) as program:
        program.load()
        instructions = {
            name: int(fdinfo.read(program.program_fd(name))["verified_insns"])
            for name in (loader.PROGRAM, loader.ENTERING)
        }
    print(f"the verifier went through {instructions} instructions")
    assert max(instructions.values()) < INSTRUCTIONS_MAX


# All frames of a chain of calls together. 6.1 rounds each up to 32 bytes, later kernels to 16: what loads
# here may not there.
STACK_MAX, STACK_UNIT = 512, 32


def test_no_chain_of_calls_takes_more_stack_than_the_oldest_kernel_has() -> None:
    listing = subprocess.run(
        ["llvm-objdump-19", "-d", "-r", "--no-show-raw-insn", str(pinned.object_path())],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    used: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    function = ""
    for line in listing.splitlines():
        if start := re.match(r"[0-9a-f]+ <(\w+)>:", line):
            function = start[1]
            used[function], calls[function] = 0, set()
        # A store or a load of the frame; or the address of something in it, which is below r10.
        for depth in re.findall(r"r10 [-+] -?0x([0-9a-f]+)", line) + re.findall(
            r"r\d+ \+= -0x([0-9a-f]+)$", line
        ):
            used[function] = max(used[function], int(depth, 16))
        if callee := re.search(r"R_BPF_64_32\s+(\w+)|call .*<(\w+)>", line):
            calls[function].add(callee[1] or callee[2])

    def deepest(name: str) -> tuple[int, list[str]]:
        below = max((deepest(callee) for callee in calls[name] & used.keys()), default=(0, []))
        frame = -(-max(used[name], 1) // STACK_UNIT) * STACK_UNIT
        return frame + below[0], [f"{name}: {used[name]}", *below[1]]

    for name in (loader.PROGRAM, loader.ENTERING):
        stack, chain = deepest(name)
        print(f"{stack} bytes of stack: {chain}")
        assert len(chain) > 2
        assert stack <= STACK_MAX, chain
