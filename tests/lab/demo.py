# SPDX-License-Identifier: Apache-2.0
"""Real calls through a real relay on one machine: `scripts/demo`.

Three hosts in network namespaces, Earshot's own programs in them, and WebRTC
calls between them whose echo is compared with what was sent.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from tests.lab import leftovers
from tests.lab.doorstep import doorstep
from tests.lab.host import LabError
from tests.lab.live import LiveTable
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.report import RelayReport, Report, flow_table
from tests.lab.services import (
    BIN,
    endpoint,
    relay_target,
    start_agent,
    start_calls,
    start_relay,
    start_transceiver,
    whip_url,
)
from tests.lab.topology import VIP_PORT, Site, two_armed

SETUP_ALLOWANCE = 60.0  # seconds that the calls may take beyond their own length


def main() -> int:
    options = parse_arguments()
    if options.clean:
        return clean(options.clean)
    try:
        return demonstrate(options) if options.browser is None else serve_page(options.browser)
    except KeyboardInterrupt:
        print("\nInterrupted. Everything is removed.")
        return 130
    except LabError as error:
        print(f"\nFailed: {error}", file=sys.stderr)
        return 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=_positive, default=5, metavar="N", help="calls at once (5)")
    parser.add_argument("--seconds", type=_positive, default=10, metavar="S", help="how long each lasts (10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--ipv6", action="store_true", help="media over IPv6 (otherwise IPv4)")
    parser.add_argument(
        "--workers", type=_positive, default=1, metavar="N", help="processes of the transceiver (1)"
    )
    parser.add_argument(
        "--browser",
        nargs="?",
        type=int,
        const=8080,
        metavar="PORT",
        help="call from a browser on this machine instead: http://localhost:PORT (8080)",
    )
    parser.add_argument("--keep", action="store_true", help="leave it running, and say how to look around")
    parser.add_argument(
        "--clean", nargs="?", const="all", metavar="LAB", help="only remove what --keep left running"
    )
    return parser.parse_args()


def clean(which: str) -> int:
    """Removes one kept lab, or all of them."""
    kept = [prefix for prefix in leftovers.kept_labs() if which in (prefix, "all")]
    for prefix in kept:
        leftovers.remove(prefix)
        print(f"removed {prefix}")
    if not kept:
        print("nothing to remove")
    return 0


def demonstrate(options: argparse.Namespace) -> int:
    leftovers.sweep()
    family = 6 if options.ipv6 else 4
    print(f"Earshot demo: {options.calls} calls of {options.seconds} s over IPv{family}\n")
    with Lab() as lab:
        site = two_armed(lab)
        describe(site, family)
        start_relay(site)
        modes = site.xdp_modes()
        attached = ", ".join(f"{link} ({mode})" for link, mode in modes.items())
        print(f"earshotd runs; its XDP program is attached to: {attached}")
        start_transceiver(site, [family], f"--workers={options.workers}")
        print(f"earshot-transceiver runs and is attached to the relay; WHIP at {whip_url()}\n")
        with RelayClient(relay_target(site)) as relay:
            try:
                results = place_calls(site, relay, options.calls, options.seconds)
            except grpc.RpcError as error:
                print_logs(lab)
                raise LabError(f"the relay does not answer: {error.code()}") from None
            report = Report.of(
                results,
                seconds=options.seconds,
                ip_version=family,
                relay=RelayReport.of(relay.counters(), site.stack_packets()),
                xdp_mode="/".join(sorted(set(modes.values()))),
                signalling_udp_packets=site.signalling_udp_packets(),
            )
        if options.json:
            options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
        failures = report.failures()
        print_verdict(report, failures)
        if failures:
            print_logs(lab)
        if options.keep:
            lab.keep()
            explain(site)
    if not options.keep:
        print("\nEverything is removed.")
    return 1 if failures else 0


def serve_page(port: int) -> int:
    """A page for a browser on this machine, until Ctrl-C; a voice agent answers."""
    leftovers.sweep()
    print("Earshot demo: a call from this machine's own browser\n")
    with Lab() as lab:
        site = two_armed(lab)
        describe(site, 4)
        start_relay(site)
        start_transceiver(site, [4], f"--backend={start_agent(site)}")
        with doorstep(site, port) as address, RelayClient(relay_target(site)) as relay:
            print(
                f"Open {address} in a browser on this machine, press Call, and talk: a small agent answers."
            )
            print("Its media goes to the VIP, and there through XDP. Ctrl-C ends it.\n")
            table = LiveTable(sys.stdout)
            try:
                while True:
                    table.show(flow_table(relay.flows()))
                    time.sleep(0.5)
            finally:
                table.finish()
                print_relay(RelayReport.of(relay.counters(), site.stack_packets()))


def print_relay(report: RelayReport) -> None:
    """What the relay did with media."""
    print(f"\n{report.to_transceiver_packets} packets to the transceiver, {report.to_client_packets} to the")
    print(f"client, all by XDP; {report.stack_packets} were seen by the relay host's own network stack.")


def describe(site: Site, family: int) -> None:
    addresses = site.addresses[family]
    vip = endpoint(addresses.vip, VIP_PORT)
    relay = f"{vip} relay {addresses.relay}"
    print(f"  client {addresses.client} <-> {relay} <-> {addresses.transceiver} transceiver")
    print("  Three network namespaces that share no subnet; the relay host's own forwarding is off.\n")


def place_calls(site: Site, relay: RelayClient, calls: int, seconds: int) -> list[dict[str, Any]]:
    """Lets the client host call, shows the flows meanwhile; returns what became of each call."""
    print(f"Placing {calls} calls from the client host ...\n")
    result = site.lab.dir / "calls.json"
    caller = start_calls(site, calls, seconds, result)
    table, most = LiveTable(sys.stdout), 0
    deadline = time.monotonic() + seconds + SETUP_ALLOWANCE
    while caller.poll() is None:
        if time.monotonic() > deadline:
            raise LabError(f"the calls have not ended after {seconds + SETUP_ALLOWANCE:.0f} s")
        flows = relay.flows()
        # Once calls hang up, the table stays as it was when all were there.
        if len(flows) >= max(most, 1):
            most = len(flows)
            table.show(flow_table(flows))
        time.sleep(0.25)
    table.finish()
    if not result.exists():
        raise LabError(f"the caller ended with {caller.returncode}:\n{log_tail(site.lab.log('caller'))}")
    results: list[dict[str, Any]] = json.loads(result.read_text())["calls"]
    return results


def print_verdict(report: Report, failures: list[str]) -> None:
    print("Not proved:" if failures else "Proved:")
    for line in failures or report.proof():
        print(f"  {line}")


def print_logs(lab: Lab) -> None:
    for log in sorted(lab.dir.glob("*.log")):
        print(f"\n{log.name} ends with:\n{log_tail(log)}", file=sys.stderr)


def log_tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def explain(site: Site) -> None:
    """How to look around in what --keep leaves behind."""
    python = BIN / "python"
    print(f"""
Everything is left running. To look around:
  logs                 tail -f {site.lab.dir}/*.log
  more calls           {" ".join(site.client.command(str(python), "-m", "tests.lab.caller"))} \\
                         --whip {whip_url()} --calls 3 --seconds 10
  a shell in a host    nsenter --net={site.relay.path}   (or -client, -transceiver)
  what the relay holds {BIN / "earshot"} stats --pin-path {site.lab.pins}   (or session list, flow list ...)
To remove it:          scripts/demo --clean {site.lab.prefix}""")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
