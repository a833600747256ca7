# SPDX-License-Identifier: Apache-2.0
"""What a reload takes over, and what it refuses with the cure, before anything has changed."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from control.addresses import parse_endpoint
from control.config import Config, FleetKeyFile
from control.errors import ConfigError
from control.reload import changed

CONFIG = Config(
    interfaces=("eth0",),
    vips=(parse_endpoint("203.0.113.1:3478"),),
    relay_addresses=(ip_address("10.20.0.1"),),
    fleet_keys=(FleetKeyFile(1, Path("/etc/earshot/fleet-1.key")),),
    directory="redis://10.0.0.5:6379/0",
)
GROUP = replace(CONFIG, group_relay_addresses=(ip_address("10.20.0.2"),), group_takeover=True)


def refusal(before: Config, after: Config) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        changed(before, after)
    assert "restart it (calls go on)" in caught.value.message
    return caught.value


def test_others_of_a_group_come_and_go() -> None:
    more = replace(GROUP, group_relay_addresses=(*GROUP.group_relay_addresses, ip_address("10.20.0.3")))
    assert changed(GROUP, more) == changed(more, GROUP) == ["group_relay_addresses"]
    none = replace(GROUP, group_relay_addresses=(), group_takeover=False)
    assert changed(replace(GROUP, group_takeover=False), none) == ["group_relay_addresses"]


def test_a_group_is_joined_at_the_start() -> None:
    assert refusal(CONFIG, replace(GROUP, group_takeover=False)).field == "group_relay_addresses"


@pytest.mark.parametrize(
    ("field", "value"), [("group_takeover", False), ("group_port", 9500), ("directory", "redis://other")]
)
def test_what_a_group_stands_on_stays(field: str, value: object) -> None:
    assert refusal(GROUP, replace(GROUP, **{field: value})).field == field  # type: ignore[arg-type]
