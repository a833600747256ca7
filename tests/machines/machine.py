# SPDX-License-Identifier: Apache-2.0
"""A machine in qemu, without KVM: runs anywhere, some thirty times as slow as the processor under it.

All machines have one disk image under them; what they write is their own and is gone when they are. Each has
a link for administration (eth0: ssh, from this machine alone) and one for each network of the site, in the
order in which it names them. What a network is: tests/machines/networks.py.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import LabError, run
from tests.machines.networks import networks, plug

MEMORY = "2048M"  # most for who compares minutes of sound
CONSOLE = (
    "console=ttyS0 root=/dev/vda rw net.ifnames=0 quiet systemd.show_status=false panic=-1 mitigations=off"
)
BOOT_TIMEOUT = 600.0  # seconds
COMMAND_TIMEOUT = 300.0
_FIRST_SSH_PORT = 2200


@dataclass(frozen=True)
class Image:
    """What vagrant/make-image has made."""

    folder: Path

    @property
    def versions(self) -> list[str]:
        return (self.folder / "versions").read_text().splitlines()


class Machine:
    """One that runs. Ends with `stop`."""

    def __init__(
        self,
        image: Image,
        folder: Path,
        name: str,
        number: int,
        links: Mapping[str, str],
    ) -> None:
        """Starts it; `wait_until_up` waits for it.

        Args:
            image: shared by all machines, and not written to.
            folder: for its console's log and for ssh.
            name: of the host.
            number: unique in the site, 1 to 99.
            links: its address on each network, which has to be there.
        """
        self.name = name
        self.boot_seconds = 0.0
        self._started = time.monotonic()
        self._folder = folder
        self._links = links
        self._port = _FIRST_SSH_PORT + number
        self._key = image.folder / "key"
        self._write_ssh_config()
        argv = [
            *("qemu-system-x86_64", "-name", name, "-machine", "q35", "-accel", "tcg", "-cpu", "max"),
            *("-smp", "1", "-m", MEMORY, "-nodefaults", "-no-reboot", "-display", "none"),
            *("-serial", f"file:{folder / name}.console"),
            *("-kernel", str(image.folder / "vmlinuz"), "-initrd", str(image.folder / "initrd")),
            *("-append", CONSOLE),
            *("-drive", f"file={image.folder / 'disk'},format=raw,if=none,id=disk,snapshot=on"),
            *("-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"),
            *("-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22"),
            *("-device", f"virtio-net-pci,netdev=n0,mac={_mac(number, 0)}"),
        ]
        for index, network in enumerate(links, 1):
            tap = f"t{number}-{index}"
            plug(network, tap)
            # Without vnet_hdr it has no offloads for its guest, which native XDP would have to turn off.
            argv += ["-netdev", f"tap,id=n{index},ifname={tap},script=no,downscript=no,vnet_hdr=off"]
            argv += ["-device", f"virtio-net-pci,netdev=n{index},mac={_mac(number, index)}"]
        with (folder / f"{name}.qemu").open("wb") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_until_up(self) -> None:
        """Until one can log in and systemd has started all that it was to. Raises `LabError`."""
        deadline = self._started + BOOT_TIMEOUT
        while True:
            if self._process.poll() is not None:
                raise LabError(f"qemu ended with {self._process.returncode}: {self._said()}")
            with contextlib.suppress(LabError, subprocess.TimeoutExpired):
                self.run("systemctl is-system-running --wait || systemctl --failed --no-legend", timeout=120)
                break
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} is not up after {BOOT_TIMEOUT:.0f} s: {self._said()}")
            time.sleep(2)
        self.boot_seconds = time.monotonic() - self._started

    def configure(self) -> None:
        """What Vagrant does before it provisions: a name, and an address for each link."""
        script = ["set -e", f"hostname {self.name}", f"echo {self.name} >/etc/hostname"]
        for index, address in enumerate(self._links.values(), 1):
            text = f"[Match]\\nName=eth{index}\\n[Network]\\nAddress={address}/24\\n"
            script.append(f"printf '{text}' >/etc/systemd/network/20-eth{index}.network")
        script.append("networkctl reload")
        for index, address in enumerate(self._links.values(), 1):
            there = f"ip -4 addr show dev eth{index} | grep -qF {address}/"
            script += [f"for i in $(seq 60); do {there} && break; sleep 1; done", there]
        self.run("\n".join(script))

    def run(self, script: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Standard output of a shell script, as root; raises `LabError` if it fails."""
        return run([*self.ssh(), script], timeout=timeout)

    def popen(self, script: str) -> subprocess.Popen[bytes]:
        """A shell script as root that runs on; its output is in a pipe."""
        return subprocess.Popen([*self.ssh(), script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def collect(self, program: Path) -> None:
        """Fetches from a relay what its transceivers need, as Vagrant has it done."""
        run([str(program), self.name, str(self.ssh_config.absolute())], timeout=COMMAND_TIMEOUT)

    def save_journal(self) -> None:
        """For who looks into a failure; as far as it answers."""
        with contextlib.suppress(LabError, subprocess.TimeoutExpired):
            (self._folder / f"{self.name}.journal").write_text(
                self.run("journalctl -b --no-pager -o short-monotonic", timeout=60)
            )

    def put(self, checkout: Path, names: Sequence[str], to: str) -> None:
        """Copies files and folders of a folder, as Vagrant's rsync does."""
        tar = ["tar", "-C", str(checkout), "--exclude=__pycache__", "--owner=0", "--group=0", "-c", *names]
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as packing:
            subprocess.run(
                [*self.ssh(), f"mkdir -p {to} && tar -C {to} -x"],
                stdin=packing.stdout,
                check=True,
                timeout=COMMAND_TIMEOUT,
            )
        if packing.returncode != 0:
            raise LabError(f"tar ended with {packing.returncode}")

    @property
    def ssh_config(self) -> Path:
        """In the form of `vagrant ssh-config`."""
        return self._folder / "ssh-config"

    def ssh(self) -> list[str]:
        return ["ssh", "-F", str(self.ssh_config), self.name]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _said(self) -> str:
        console = (self._folder / f"{self.name}.console").read_text(errors="replace")[-1500:]
        return (self._folder / f"{self.name}.qemu").read_text(errors="replace")[-500:] + console

    def _write_ssh_config(self) -> None:
        with self.ssh_config.open("a") as config:
            config.write(f"""Host {self.name}
  HostName 127.0.0.1
  User root
  Port {self._port}
  IdentityFile {self._key}
  IdentitiesOnly yes
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  LogLevel ERROR
  ConnectTimeout 60
  ServerAliveInterval 60
  ControlMaster auto
  ControlPersist 600
  ControlPath {self._folder}/%n.ssh
""")


def _mac(number: int, link: int) -> str:
    return f"52:54:00:e5:{number:02x}:{link:02x}"


@contextlib.contextmanager
def site(
    image: Image, folder: Path, described: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> Iterator[dict[str, Machine]]:
    """Machines by name, all of them up, on networks of those names; they end with the block."""
    machines: dict[str, Machine] = {}
    with networks(names):
        try:
            for number, (name, links) in enumerate(described.items(), 1):
                machines[name] = Machine(image, folder, name, number, links)
            for machine in machines.values():
                machine.wait_until_up()
                machine.configure()
            yield machines
        finally:
            for machine in machines.values():
                machine.stop()
