# SPDX-License-Identifier: Apache-2.0
"""A relay host as large as wanted: earshotd on a CPU of its own, and maps that are filled beside it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import numpy as np

from control import abi, flow_index, libbpf, pinned
from control.addresses import Endpoint
from control.datapath import Datapath
from control.flows import Clock
from control.hmac_keys import key_states
from tests.lab.services import BIN, endpoint, start
from tests.lab.topology import IPV4, Site

VIP_PORT = 443  # outside of the relay ports, which are all that there are
RELAY_PORTS = (1024, 65535)
TRANSCEIVER = "bench"
ENDPOINTS = 100
ENDPOINT_PORT = 10000


@dataclass(frozen=True)
class Size:
    """Of a relay: how many relay addresses with ports from 1024 on, and how many sessions."""

    relays: int
    span: int
    sessions: int

    @property
    def flows(self) -> int:
        return self.relays * self.span

    @classmethod
    def of(cls, flows: int, sessions: int) -> Size:
        """With room for so many flows, on as few relay addresses as possible."""
        most = RELAY_PORTS[1] - RELAY_PORTS[0] + 1
        relays = -(-flows // most)
        return cls(relays, -(-flows // relays), sessions)


def start_daemon(site: Site, size: Size, cpu: int) -> subprocess.Popen[bytes]:
    """earshotd with IPv4 alone; returns when it serves. All of it runs on that CPU."""
    first = ip_address(IPV4.relay)
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})  # which it inherits
    try:
        return start(
            site.lab,
            site.relay,
            str(BIN / "earshotd"),
            "--name=relay",
            *(f"--interface={interface}" for interface in site.interfaces),
            f"--vip={endpoint(IPV4.vip, VIP_PORT)}",
            *(f"--relay-address={first + number}" for number in range(size.relays)),
            f"--relay-ports={RELAY_PORTS[0]}-{RELAY_PORTS[0] + size.span - 1}",
            f"--grpc-socket={site.lab.dir}/earshotd.sock",
            f"--pin-path={site.lab.pins}",
            f"--max-sessions={size.sessions}",
            f"--max-sessions-per-transceiver={size.sessions}",
            "--source-requests-per-second=0",
            "--flow-idle-seconds=3600",
        )
    finally:
        os.sched_setaffinity(0, own)


@contextmanager
def maps(pin_path: Path) -> Iterator[Datapath]:
    """The pinned maps, to be written to while no daemon runs."""
    with libbpf.BpfObject(pinned.object_path()) as program:
        names = list(program.map_names())
    datapath = Datapath({name: libbpf.get_pinned(pin_path / name) for name in names})
    try:
        yield datapath
    finally:
        datapath.close()


def fill(datapath: Datapath, sessions: int, now: Clock) -> None:
    """So many sessions of one transceiver, and a live flow of one of them in every record."""
    owner = np.zeros(1, abi.OWNER)
    owner["name"] = TRANSCEIVER.encode()
    datapath.put_owner(0, owner)
    backends = datapath.backends[1 : ENDPOINTS + 1]
    backends["addr"] = np.void(bytes(10) + b"\xff\xff" + ip_address(IPV4.transceiver).packed)
    backends["port"] = ENDPOINT_PORT + np.arange(ENDPOINTS)
    numbers = np.arange(sessions, dtype=np.uint32)
    keys, values = np.zeros(sessions, abi.UFRAG_KEY), np.zeros(sessions, abi.SESSION)
    keys["ufrag"] = [f"u{number:07}".encode() for number in range(sessions)]
    values["number"] = numbers + 1
    values["backend"][:, 0] = numbers % ENDPOINTS + 1
    values["flags"] = abi.SessionFlag.HAS_PWD
    values["inner"], values["outer"] = key_states([f"{number:024}".encode() for number in range(sessions)])
    values["id"] = [f"session-{number}".encode() for number in range(sessions)]
    if datapath.put_sessions(keys, values) != sessions:
        raise RuntimeError("the sessions do not fit")
    _fill_flows(datapath, sessions, now)


def _fill_flows(datapath: Datapath, sessions: int, now: Clock) -> None:
    """Every record is taken out of its ring, and entered in the index."""
    records = np.arange(datapath.layout.records, dtype=np.uint32)
    flows = np.zeros(len(records), abi.FLOW)
    clients = np.zeros((len(records), 16), np.uint8)
    clients[:, 10:12] = 0xFF
    clients[:, 12:] = (0x0B000000 + (records >> 10)).astype(">u4").view(np.uint8).reshape(-1, 4)
    flows["client_addr"] = clients.view("V16").ravel()
    flows["client_port"] = 0x4000 + (records & 0x3FF)
    session = np.arange(len(records), dtype=np.uint32) % sessions
    flows["session"], flows["backend"] = session + 1, session % ENDPOINTS + 1
    flows["last_seen"] = now.ticks
    flows["state"] = abi.FlowState.LIVE | int(now.seconds) << abi.FLOW_STATE_BITS
    datapath.flows[records] = flows
    datapath.index[:] = 0
    flow_index.enter(datapath.index, datapath.flows, records, datapath.layout)
    datapath.free.empty()


def resident(pid: int) -> dict[str, float]:
    """MiB of memory that a process holds: all, and what is its own alone."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        name: round(int(fields[field].split()[0]) / 1024, 1)
        for name, field in (("resident_mib", "VmRSS"), ("own_mib", "RssAnon"))
    }


def relay_endpoint() -> Endpoint:
    """Where clients send."""
    return Endpoint(ip_address(IPV4.vip), VIP_PORT)
