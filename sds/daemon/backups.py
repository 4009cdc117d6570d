"""Backups of the catalog beside the work of a worker: soon after each change, never in the way of its reply."""

import logging
from collections.abc import Awaitable, Callable

import trio

from sds.core.errors import SdsError

RETRY_S = 5.0
_log = logging.getLogger(__name__)


class Backups:
    def __init__(self, backup: Callable[[], Awaitable[object]]) -> None:
        self._backup = backup
        self._wanted = trio.Event()

    def request(self) -> None:
        """A backup that begins later than now. Changes close together share one."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            try:
                await self._backup()
            except SdsError as error:
                _log.error("%s", error)
                self._wanted.set()
                await trio.sleep(RETRY_S)
