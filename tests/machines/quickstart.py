# SPDX-License-Identifier: Apache-2.0
"""docs/quickstart.md, done in emulated machines as it stands: its commands, and the files that it shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.host import LabError
from tests.machines import acts, browser
from tests.machines.machine import Machine

PAGE = Path(__file__).resolve().parents[2] / "docs/quickstart.md"
# What a person copies from host to host.
SECRETS = ("ca.crt", "voice-1.crt", "voice-1.key")
_BLOCK = re.compile(
    r"(?:<!-- not run: vagrant/test-in-qemu runs it on (?P<hosts>[a-z ]+?)(?P<call>, in the call)? -->\n)?"
    r"```(?P<kind>sh|toml|ini)\n(?P<text>.*?)```\n",
    re.DOTALL,
)
_FILE = re.compile(r"# (/etc/earshot/\S+)\n")


@dataclass(frozen=True)
class Step:
    """One block: a file to be written, or commands to be run."""

    hosts: tuple[str, ...]
    text: str
    file: str = ""
    in_call: bool = False


def steps(page: str) -> Iterator[Step]:
    """Those of a page, in their order. Raises `LabError` at a block that does not say where it belongs."""
    for block in _BLOCK.finditer(page):
        text = block["text"]
        file = _FILE.match(text)
        if file is not None:
            host = "relay" if file[1].endswith("earshotd.toml") else "transceiver"
            yield Step((host,), text, file=file[1])
        elif block["hosts"] is not None:
            yield Step(tuple(block["hosts"].split(" and ")), text, in_call=block["call"] is not None)
        else:
            raise LabError(f"quickstart: where is this to be run? {text}")


def follow(hosts: Mapping[str, Machine], package: Path, folder: Path) -> dict[str, Any]:
    """Does what the page says; returns what was seen. `folder`: for a picture of the browser's page."""
    for name in ("relay", "transceiver"):
        hosts[name].put(package.parent, [package.name], "/root")
        hosts[name].run(f"mv /root/{package.name} /root/earshot_0_amd64.deb")
    todo = list(steps(PAGE.read_text()))
    with ThreadPoolExecutor() as pool:
        for step in todo:
            machines = [hosts[name] for name in step.hosts]
            if step.file:
                _write(machines[0], step)
                if step.hosts == ("transceiver",):
                    _copy_secrets(hosts["relay"], hosts["transceiver"])
            elif not step.in_call:
                for said in pool.map(_run, machines, [step.text] * len(machines)):
                    print(said)
    seen: dict[str, Any] = {}
    with browser.calling(folder) as call:
        for step in todo:
            if step.in_call:
                seen[step.text] = _run(hosts[step.hosts[0]], step.text)
                print(seen[step.text])
                if browser.ADDRESS not in seen[step.text]:
                    raise LabError("quickstart: the call is not there to be seen")
        call.wait_for_more()
    print(f"browser: {call.figures}")
    return {**seen, "browser": call.figures}


def _write(host: Machine, step: Step) -> None:
    print(f"{host.name}: {step.file}")
    text = step.text
    if step.file.endswith(".env"):
        text += "".join(f"EARSHOT_TRANSCEIVER_{setting}\n" for setting in acts.PATIENT)
    host.run(f"printf %s {shlex.quote(text)} >{step.file}")


def _run(host: Machine, text: str) -> str:
    """What was said, with what was asked before it."""
    said = host.run(f"set -e; cd /root; {{ {text}\n}} 2>&1", timeout=acts.PROVISION_TIMEOUT)
    asked = [f"{host.name}# {line}" for line in text.splitlines()]
    return "\n".join([*asked, *said.splitlines()[-90:]])


def _copy_secrets(relay: Machine, transceiver: Machine) -> None:
    for name in SECRETS:
        secret = relay.run(f"cat /etc/earshot/pki/{name}")
        transceiver.run(f"umask 077; printf %s {shlex.quote(secret)} >/etc/earshot/{name}")
