# SPDX-License-Identifier: Apache-2.0
"""Where an HTTP application listens: an address and port, or a socket in the file system."""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web

from transceiver.media import Endpoint
from transceiver.settings import Web

STOP_TIMEOUT = 2.0  # seconds that requests under way have when the process stops


async def listening(app: web.Application, where: Endpoint | Path, how: Web) -> web.AppRunner:
    """Serves the application there; `cleanup` of what is returned ends it.

    Raises `OSError` (`ssl.SSLError` is one): the address is taken, or certificate and key are none.
    """
    context: ssl.SSLContext | None = None
    if how.certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(how.certificate, how.key)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_TIMEOUT)
    await runner.setup()
    try:
        if isinstance(where, Path):
            await web.UnixSite(runner, where).start()
        else:
            await web.TCPSite(runner, str(where.address), where.port, ssl_context=context).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


def addresses(runner: web.AppRunner) -> str:
    """Where it listens, with the real port."""
    return ",".join(str(Endpoint(ip_address(host), port)) for host, port, *_ in runner.addresses)
