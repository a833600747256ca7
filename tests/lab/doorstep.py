# SPDX-License-Identifier: Apache-2.0
"""A site's doorstep: how the very machine that a lab runs on becomes one of its clients.

A veth link joins this machine to the client host, which forwards what goes to the VIP, and masquerades it.
HTTP comes by a port on this machine's loopback address: browsers give pages from there their microphone.
Nothing else of the site is to be reached, and everything goes with the client host's namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator

from tests.lab.host import Host, LabError, run
from tests.lab.topology import HTTP_PORT, IPV4, SIGNALLING_TRANSCEIVER, Site

HERE, THERE = "198.18.0.1", "198.18.0.2"  # of the range for benchmarks (RFC 2544), like the lab's in no use
CHUNK = 65536


@contextlib.contextmanager
def doorstep(site: Site, port: int) -> Iterator[str]:
    """The address to open in a browser here: http://localhost, at that port, or any if it is 0."""
    link = f"es{os.getpid()}"
    client = site.client
    client.ip(
        f"link add name doorstep type veth peer name {link} netns {os.getpid()}",
        f"address add {THERE}/30 dev doorstep",
        "link set dev doorstep up",
    )
    for line in (
        f"address add {HERE}/30 dev {link}",
        f"link set dev {link} up",
        f"route add {IPV4.vip}/32 via {THERE} dev {link}",
    ):
        run(["ip", *line.split()])
    # As on all the lab's links: XDP would forward a checksum that is half done.
    run(["ethtool", "-K", link, "tx", "off"])
    client.run("ethtool", "-K", "doorstep", "tx", "off")
    client.sysctl("net.ipv4.ip_forward", 1)
    client.nft(
        f"""table ip doorstep {{
            chain forward {{
                type filter hook forward priority filter; policy drop;
                iifname doorstep ip daddr {IPV4.vip} meta l4proto udp accept
                oifname doorstep ct state established accept
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr {HERE} masquerade
            }}
        }}
        """
    )
    with _http(client, port) as bound:
        yield f"http://localhost:{bound}"


@contextlib.contextmanager
def _http(client: Host, port: int) -> Iterator[int]:
    """A port on loopback that leads to the transceiver's HTTP, by way of the client host."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise LabError(f"port {port} of 127.0.0.1 cannot be had: {error.strerror}") from None
    loop = asyncio.new_event_loop()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with client.inside():
            out = socket.socket()
        out.setblocking(False)
        try:
            await loop.sock_connect(out, (SIGNALLING_TRANSCEIVER, HTTP_PORT))
            there_reader, there_writer = await asyncio.open_connection(sock=out)
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        except OSError:
            out.close()
            writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(carry, sock=listener):
            await asyncio.get_running_loop().create_future()

    def work() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was stopped before it was done, as meant
            loop.run_until_complete(serve())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        listener.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, to its end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()
