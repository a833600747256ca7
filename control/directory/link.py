# SPDX-License-Identifier: Apache-2.0
"""The way to Redis: its commands with a deadline, whether it answers, and pauses before another try."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from control.directory.errors import AwayError
from control.directory.target import Target
from control.logs import event

# A healthy Redis answers within a millisecond. One that is this slow is as good as away.
CALL_SECONDS = 3.0
CONNECT_SECONDS = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Link:
    """Commands to one Redis. It connects when it is first used, and again whenever it has to.

    Attributes:
        is_up: whether the last command was answered.
        since: when that began, in seconds of CLOCK_MONOTONIC.
        failures: commands that were not answered as they should.
    """

    def __init__(self, target: Target) -> None:
        """Raises ConfigError: the password or the certificates cannot be read."""
        # Only who has a directory loads its library, which loads others that are there (OpenTelemetry's).
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ReadOnlyError, RedisError

        self._faults = (RedisError, OSError)
        self._not_in_office = ReadOnlyError
        self.target = target
        self.is_up = False
        self.since = time.monotonic()
        self.failures = 0
        self._told = False
        self._pause = FIRST_PAUSE
        tls: dict[str, Any] = {"ssl": True} if target.tls else {}
        if target.ca_file is not None:
            tls["ssl_ca_certs"] = str(target.ca_file)
        self.redis: Any = Redis(
            host=target.host,
            port=target.port,
            db=target.database,
            username=target.username,
            password=target.password(),
            protocol=2,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=None,  # `call` has a deadline
            retry=Retry(NoBackoff(), 0),
            client_name="earshotd",
            **tls,
        )

    async def call(self, command: Callable[[Any], Awaitable[_T]], seconds: float = CALL_SECONDS) -> _T:
        """What Redis answers to a command, which is made of the client.

        Raises:
            AwayError: it did not answer, or refused. Whether the command was carried out is not known.
        """
        try:
            async with asyncio.timeout(seconds):
                answer = await command(self.redis)
        except self._faults as error:
            # Others are as dead as this one; or it has lost its office, and there is another at that name.
            await self._disconnect(in_use=isinstance(error, self._not_in_office))
            self._failed(str(error) or type(error).__name__)
            raise AwayError(f"{self.target}: {error}") from error
        self._answered()
        return answer

    async def pause(self) -> None:
        """Before another try: longer each time that one fails, and not at the same time for everybody."""
        await asyncio.sleep(self._pause * random.uniform(0.5, 1))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def close(self) -> None:
        try:
            await self.redis.aclose()
        except self._faults as error:
            event(_log, logging.DEBUG, "directory_close_failed", message=error)

    async def _disconnect(self, in_use: bool) -> None:
        try:
            await self.redis.connection_pool.disconnect(inuse_connections=in_use)
        except self._faults as error:
            event(_log, logging.DEBUG, "directory_close_failed", message=error)

    def _answered(self) -> None:
        self._pause = FIRST_PAUSE
        if not self.is_up:
            away = time.monotonic() - self.since
            self.is_up, self.since = True, time.monotonic()
            event(_log, logging.INFO, "directory_up", directory=self.target, after_seconds=round(away, 1))
            self._told = False

    def _failed(self, message: str) -> None:
        self.failures += 1
        if self.is_up or not self._told:
            self._told = True
            event(_log, logging.WARNING, "directory_away", directory=self.target, message=message)
        if self.is_up:
            self.is_up, self.since = False, time.monotonic()
