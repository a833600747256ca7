# SPDX-License-Identifier: Apache-2.0
"""A way for a test's own TCP connections into a host of the lab."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.lab.host import Host


@contextlib.contextmanager
def forwarded(host: Host, address: str, port: int) -> Iterator[int]:
    """A port on 127.0.0.1 of the test's own namespace; connections to it go on from inside the host."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    outer, _ = listener.accept()
                except OSError:
                    return
                inner = host.socket(socket.AF_INET, socket.SOCK_STREAM)
                try:
                    inner.connect((address, port))
                except OSError:
                    outer.close()
                    inner.close()
                    continue
                inner.settimeout(None)
                ends.extend((outer, inner))
                for source, sink in ((outer, inner), (inner, outer)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
