# SPDX-License-Identifier: Apache-2.0
"""docs/quickstart.md in the form in which vagrant/test-in-qemu can do what it says, each night."""

from __future__ import annotations

import tomllib

import pytest

from tests.docs.commands import in_blocks
from tests.lab.host import LabError
from tests.machines.quickstart import PAGE, steps


def test_every_command_is_in_a_step() -> None:
    done = "\n".join(step.text for step in steps(PAGE.read_text()))
    elsewhere = [each.bare for each in in_blocks(PAGE) if each.bare not in done]
    assert elsewhere == ["deploy/deb/build"]  # before there is a machine


def test_hosts_and_files() -> None:
    found = list(steps(PAGE.read_text()))
    assert {host for step in found for host in step.hosts} == {"relay", "transceiver"}
    files = {step.file: step for step in found if step.file}
    assert files.keys() == {"/etc/earshot/earshotd.toml", "/etc/earshot/transceiver-voice-1.env"}
    configuration = files["/etc/earshot/earshotd.toml"]
    assert tomllib.loads(configuration.text)["vips"] == ["198.51.100.20:3478"]
    assert [step.in_call for step in found] == [False] * (len(found) - 1) + [True]


def test_a_block_without_a_host_is_refused() -> None:
    with pytest.raises(LabError, match="where is this to be run"):
        list(steps("Text\n\n```sh\nearshot stats\n```\n"))
