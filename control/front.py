# SPDX-License-Identifier: Apache-2.0
"""The daemon's unix socket, and which user is behind each of its connections.

gRPC does not tell its handlers the credentials of a unix socket's peer (SO_PEERCRED). So the socket
that callers see is served here: the kernel is asked who has connected, and what comes in is handed
on, byte by byte, to gRPC's own socket, which stands in a folder that is open to the daemon's user alone. Our
end of each such inner connection is bound to an abstract name, made of 128 random bits and never
used again; gRPC tells its handlers that name as the call's peer, and `peers` says whose it is.

A name is in `peers` only while our socket is bound to it, when nobody else's can be: knowing the
names (/proc/net/unix shows them) is of no use. See docs/adr/0007.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import socket
import stat
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from grp import getgrnam
from pathlib import Path

from control.errors import ConfigError
from control.splice import Splice

SOCKET_MODE = 0o660
_CREDENTIALS = struct.Struct("=3i")  # struct ucred: pid, uid, gid
_BACKLOG = 4096  # at most net.core.somaxconn


class Front:
    """Hands connections on to gRPC's own socket.

    Attributes:
        inner: where gRPC listens.
        peers: the uid behind each connection, by the peer that gRPC names.
        refused: connections that were closed at once, since their user has enough of them.
    """

    def __init__(self, path: Path, group: str, *, most: int, most_per_user: int) -> None:
        """`most` and `most_per_user` bound the connections."""
        self.inner = Path(f"{path}.d") / "g"
        self.peers: dict[str, int] = {}
        self.refused = 0
        self._path = path
        self._group = group
        self.limit(most, most_per_user)
        self._open: Counter[int] = Counter()

    def limit(self, most: int, most_per_user: int) -> None:
        """Other limits from now on; connections that are open go on."""
        self._most = most
        self._most_per_user = most_per_user

    def prepare(self) -> None:
        """Makes the folder for gRPC's socket, and clears away what a daemon that was killed has left.

        Raises:
            ConfigError: a daemon serves there; or the folder cannot be made, or is not ours alone.
        """
        folder = self.inner.parent
        try:
            # Before anything of it is touched.
            _remove_stale(self._path)
            folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise ConfigError("grpc_socket", f"{folder} is not a folder of this user alone")
            self.inner.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError("grpc_socket", f"cannot make {self._path}: {error.strerror}") from error

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Accepts connections; gRPC listens already.

        Raises:
            ConfigError: nothing can listen there.
        """
        try:
            listener = self._listen()
        except (OSError, KeyError) as error:
            raise ConfigError("grpc_socket", f"cannot listen on {self._path}: {error}") from error
        splices: set[Splice] = set()
        accepting = asyncio.create_task(self._accept(listener, splices))
        try:
            yield
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])
            self._path.unlink(missing_ok=True)
            listener.close()
            for splice in list(splices):
                splice.close()
            shutil.rmtree(self.inner.parent, ignore_errors=True)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The mode has to be right from the first moment on, and the group before its mode is.
            before = os.umask(0o777)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
            if self._group:
                os.chown(self._path, -1, getgrnam(self._group).gr_gid)
            self._path.chmod(SOCKET_MODE)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener

    async def _accept(self, listener: socket.socket, splices: set[Splice]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                outer, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    continue  # the caller was gone before it was accepted
                await asyncio.sleep(0.1)  # until others have gone
                continue
            _, uid, _ = _CREDENTIALS.unpack(
                outer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if self._open.total() >= self._most or self._open[uid] >= self._most_per_user:
                self.refused += 1
                outer.close()
                continue
            self._open[uid] += 1
            try:
                splices.add(await self._hand_on(outer, uid, splices.discard))
            except OSError:  # no descriptor is left, or gRPC has stopped listening
                self._count_out(uid)
                outer.close()

    async def _hand_on(self, outer: socket.socket, uid: int, forget: Callable[[Splice], None]) -> Splice:
        name = f"earshotd-{secrets.token_hex(16)}"
        peer = f"unix-abstract:{name}"

        def ended(splice: Splice) -> None:
            self._count_out(uid)
            forget(splice)

        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.setblocking(False)
            inner.bind(f"\0{name}")
            self.peers[peer] = uid
            await asyncio.get_running_loop().sock_connect(inner, str(self.inner))
            return await Splice.join(outer, inner, lambda: self.peers.pop(peer, None), ended)
        except BaseException:
            self.peers.pop(peer, None)
            inner.close()
            raise

    def _count_out(self, uid: int) -> None:
        self._open[uid] -= 1
        if not self._open[uid]:
            del self._open[uid]


def _remove_stale(path: Path) -> None:
    """Removes the socket of a daemon that was killed. Raises OSError if one answers there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "it is there, and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        with contextlib.suppress(ConnectionRefusedError):
            probe.connect(str(path))
            raise OSError(errno.EADDRINUSE, "another process serves there")
    path.unlink()
