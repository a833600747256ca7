# SPDX-License-Identifier: Apache-2.0
"""Candidates that forward in user space: a small relay in C, and coturn."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.driver import BUILD
from bench.path import plan, turn_client
from bench.path.candidates import Case, Ready, ends
from bench.path.plan import Forms
from bench.path.site import build, let_clients_talk, route
from bench.path.traffic import rtp_bytes
from bench.tables import PLANS, VIP_PORT
from tests.lab.netns import Lab
from tests.lab.services import start

SPARE_FILES = 1000


@contextmanager
def c_relay(lab: Lab, case: Case) -> Iterator[Ready]:
    """relay.c: its flows are told apart by their transceivers' ports."""
    site = build(lab)
    relay = route(site, case.family)
    told = plan.one_port(case.family)
    (clients, vip), (near, backends) = told.up.sent, told.up.due

    def forms(size: int) -> Forms:
        return told

    process = start(
        lab,
        relay,
        str(BUILD / "bench-relay"),
        *(str(vip.address), str(vip.port), str(near.address), str(near.port)),
        *(str(clients.address), str(clients.port), str(clients.port_mask)),
        *(str(case.backend), str(backends.port), str(backends.port_mask), str(case.flows)),
    )
    with ends(site, forms, case) as (up, down):
        yield Ready(site, case, forms, up, down, pids=(process.pid,))


@contextmanager
def coturn(lab: Lab, case: Case) -> Iterator[Ready]:
    """coturn, without authentication: an allocation and a channel for each flow, a thread for each CPU.

    Each allocation is a socket of its own, so there are no more flows than files that it may open.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    case = replace(case, flows=min(case.flows, files // 1000 * 1000 - SPARE_FILES))
    site = build(lab)
    relay = route(site, case.family)
    let_clients_talk(site, case.family)
    addresses = PLANS[case.family]

    def forms(size: int) -> Forms:
        return plan.turn(case.family, rtp_bytes(case.family, size or 80, 4))

    process = lab.popen(
        relay,
        *("prlimit", f"--nofile={files}:{files}", "turnserver", "-n", "--no-auth"),
        *(f"--listening-ip={addresses.vip}", f"--listening-port={VIP_PORT}"),
        *(f"--relay-ip={addresses.relay}", "--min-port=1024", "--max-port=65535"),
        f"--relay-threads={os.cpu_count()}",
        *("--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "--no-software-attribute"),
        "--allocation-default-address-family=keep",
        *("--log-file=stdout", f"--pidfile={lab.dir}/turnserver.pid", f"--userdb={lab.dir}/turndb"),
        log="coturn",
    )
    with ends(site, forms, case) as (up, down):
        ports = turn_client.open_channels(site.clients, case)
        yield Ready(site, case, forms, up, down, pids=(process.pid,), ports=ports)
