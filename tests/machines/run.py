# SPDX-License-Identifier: Apache-2.0
"""`vagrant/test-in-qemu`: the site of vagrant/site.json in emulated machines, provisioned, called through,
restarted, upgraded and purged; or that of vagrant/fleet.json, called through by each of its relays.

Prints what it does and what it found, and writes the figures to results.json. Ends with 0 if all was as it
should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lab.host import LabError, run
from tests.machines import acts, fleet, quickstart
from tests.machines.machine import Image, Machine, site

CHECKOUT = Path(__file__).resolve().parents[2]
SITE = CHECKOUT / "vagrant/site.json"
FLEET = CHECKOUT / "vagrant/fleet.json"
HANDOVER = CHECKOUT / "build/site"
PACKAGE = "earshot-debian-12.deb"  # as scripts/provision looks for it


def main() -> int:
    parser = argparse.ArgumentParser(prog="vagrant/test-in-qemu", description=__doc__.partition("\n")[0])
    parser.add_argument("--image", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--package", type=Path, required=True, help="by default it is built")
    parser.add_argument("--relays", type=int, choices=(1, 2), default=1)
    parser.add_argument(
        "--fleet", action="store_true", help="two relays of a fleet and one transceiver: calls through each"
    )
    parser.add_argument("--no-quickstart", action="store_true", help="what scripts/provision does alone")
    parser.add_argument("--log", type=Path, default=CHECKOUT / "build/machines/log", metavar="FOLDER")
    options = parser.parse_args()
    shutil.rmtree(options.log, ignore_errors=True)
    options.log.mkdir(parents=True)
    figures: dict[str, Any] = {"took": {}}
    try:
        shutil.rmtree(HANDOVER, ignore_errors=True)
        HANDOVER.mkdir(parents=True)
        repack(options.package, HANDOVER / PACKAGE)
        image = Image(options.image)
        figures["image"] = image.versions
        print("image:", ", ".join(image.versions))
        perform(image, options, figures)
    except (LabError, subprocess.TimeoutExpired) as error:
        figures["failed"] = str(error)
        print(f"\nFailed: {error}\n\nLogs of the machines: {options.log}", file=sys.stderr)
    (options.log / "results.json").write_text(json.dumps(figures, indent=2) + "\n")
    if "failed" in figures:
        return 1
    print(f"\nAll of it was as it should be. Figures: {options.log / 'results.json'}")
    return 0


def repack(package: Path, to: Path) -> None:
    """The same package, compressed for who unpacks it: emulated, xz takes minutes of each installation."""
    with tempfile.TemporaryDirectory() as folder:
        run(["dpkg-deb", "-R", str(package), folder], timeout=300)
        run(["dpkg-deb", "--root-owner-group", "-Zzstd", "-z3", "-b", folder, str(to)], timeout=300)


def perform(image: Image, options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """All acts in their order. Raises `LabError` at the first thing that is not as it should be."""
    described = json.loads((FLEET if options.fleet else SITE).read_text())
    absent = {"relay-2"} if options.relays == 1 and not options.fleet else set()
    machines = [machine for machine in described["machines"] if machine["name"] not in absent]
    relays = [machine["name"] for machine in machines if machine["name"] in machine["provision"]]
    links = {machine["name"]: machine["links"] for machine in machines}

    with contextlib.ExitStack() as stack:
        with act("boot", figures):
            hosts = stack.enter_context(site(image, options.log, links, described["networks"]))
            for host in hosts.values():
                stack.callback(host.save_journal)
            figures["boot_seconds"] = {name: round(host.boot_seconds) for name, host in hosts.items()}
        client = machines[-1]["provision"]["relay"]
        if not options.no_quickstart and not options.fleet:
            with act("quickstart", figures):
                figures["quickstart"] = quickstart.follow(hosts, HANDOVER / PACKAGE, options.log)
            with act("purge after the quickstart", figures):
                hosts["transceiver"].run("DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq earshot 2>&1")
                acts.purge(hosts["relay"], hosts["client"], links["relay"]["clients"])
        with act("provision", figures):
            # In a fleet calls come later.
            for machine in machines[:-1] if options.fleet else machines:
                lines = [line for relay, line in machine["provision"].items() if relay not in absent]
                figures.setdefault("calls", []).extend(
                    acts.provision(CHECKOUT, hosts[machine["name"]], lines)
                )
                if machine["name"] in relays:
                    hosts[machine["name"]].collect(CHECKOUT / "vagrant/collect")
        if options.fleet:
            vips = {name: links[name]["clients"] for name in relays}
            perform_fleet([hosts[name] for name in relays], hosts, vips, client, figures)
            return
        for name in relays:
            figures[name] = acts.inspect_relay(hosts[name], figures["calls"])
        figures["transceiver"] = acts.inspect_transceiver(hosts["transceiver"])
        with act("restarts in a call", figures):
            figures["restarts"] = acts.restart_in_call(hosts["relay"], hosts["client"], client)
        with act("purge", figures):
            figures["purged"] = acts.purge(hosts["relay"], hosts["client"], links["relay"]["clients"])


def perform_fleet(
    relays: Sequence[Machine],
    hosts: Mapping[str, Machine],
    vips: Mapping[str, str],
    client: Sequence[str],
    figures: dict[str, Any],
) -> None:
    """Likewise, of relays that one transceiver is attached to, once all are provisioned."""
    with act("what each relay knows of the fleet", figures):
        figures["fleet"] = {relay.name: fleet.status(relay) for relay in relays}
    with act("a call by each", figures):
        figures["calls"] = fleet.call_by_each(CHECKOUT, relays, hosts["client"], vips, client)
    for relay in relays:
        figures[relay.name] = acts.inspect_relay(relay, [figures["calls"][relay.name]])
    figures["transceiver"] = acts.inspect_transceiver(hosts["transceiver"])
    with act("a relay is taken away in a call by the other", figures):
        figures["taken_away"] = fleet.take_away(CHECKOUT, relays, hosts["client"], vips, client)


@contextlib.contextmanager
def act(name: str, figures: dict[str, Any]) -> Iterator[None]:
    print(f"\n== {name}")
    started = time.monotonic()
    yield
    figures["took"][name] = round(time.monotonic() - started)
    print(f"took {figures['took'][name]} s")


if __name__ == "__main__":
    sys.exit(main())
