# SPDX-License-Identifier: Apache-2.0
"""What earshotd looks at when it starts, for who starts it without `earshot check`.

Nothing of it keeps it from starting: what cannot work fails by itself, and this says beforehand why.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from control.check import addresses, host, links
from control.check.finding import Finding, Status
from control.config import Config
from control.logs import event

_log = logging.getLogger(__name__)


def say(config: Config) -> None:
    """Logs what is not in order, with its cure."""
    for finding in findings(config):
        if finding.status != Status.OK:
            event(
                _log, logging.WARNING, "host_unfit", what=finding.name, found=finding.found, cure=finding.cure
            )


def findings(config: Config) -> Iterator[Finding]:
    """The cheap ones, of what is wrong most often where a kernel or an address is not what was thought."""
    yield host.kernel(os.uname().release)
    yield host.btf(host.BTF)
    own = links.addresses()
    yield from (one for one in addresses.findings(config, own) if one.name == addresses.RELAY_PORTS)
