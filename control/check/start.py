# SPDX-License-Identifier: Apache-2.0
"""What earshotd looks at when it starts, for who starts it without `earshot check`.

What cannot work fails by itself, and this says beforehand why. Where calls alone would fail, on links for
which the kernel takes the program, the start is refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from control.check import addresses, ethtool, host, links, mtu, placement
from control.check.finding import Finding, Status
from control.config import Config
from control.errors import ConfigError
from control.logs import event

_log = logging.getLogger(__name__)


def say(config: Config) -> None:
    """Logs what is not in order, with its cure."""
    for finding in findings(config):
        if finding.status != Status.OK:
            event(
                _log, logging.WARNING, "host_unfit", what=finding.name, found=finding.found, cure=finding.cure
            )


def refuse(config: Config) -> None:
    """Raises ConfigError where calls' packets would be lost on the links that are named."""
    all_links = links.read()
    named = [link for link in all_links.values() if link.name in config.interfaces]
    found = [
        finding
        for link in named
        for finding in placement.findings(
            link, all_links, config.interfaces, ethtool.features(link.name), config.xdp_mode
        )
    ]
    if named:
        found.append(mtu.mtus(named, config.largest_packet))
    for finding in found:
        if finding.status == Status.FAILED:
            raise ConfigError("interfaces", f"{finding.name}: {finding.found}: {finding.cure}")


def findings(config: Config) -> Iterator[Finding]:
    """The cheap ones, of what is wrong most often where a kernel or an address is not what was thought."""
    yield host.kernel(os.uname().release)
    yield host.btf(host.BTF)
    own = links.addresses()
    yield from (one for one in addresses.findings(config, own) if one.name == addresses.RELAY_PORTS)
