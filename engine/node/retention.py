"""Deletes finished jobs past their days: at intervals, one node at a time."""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import asyncpg

from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.store.pool import UNREACHABLE, Connection
from taskforge_server.engine.store.retention import Retention, keepers_of
from taskforge_server.engine.store.subscriptions import Subscriptions

log = logging.getLogger(__name__)


class RetentionUpkeep:
    """The rounds of a node."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        subscriptions: Subscriptions,
        counters: Counters,
        now: Callable[[], datetime],
    ) -> None:
        self._connect = connect
        self._subscriptions = subscriptions
        self._counters = counters
        self._now = now

    async def sweep(self) -> None:
        """One round; nothing where another node is at it. Unavailable: the next one goes on."""
        now = self._now()
        keepers = keepers_of(await self._subscriptions.plans(), now)
        try:
            connection = await self._connect()
            try:
                await self._round(Retention(connection, keepers))
            finally:
                connection.terminate()
        except UNREACHABLE as error:
            raise Unavailable(message="the database is not available now") from error

    async def _round(self, retention: Retention) -> None:
        if not await retention.begin():
            return
        for day in await retention.days():
            try:
                dropped = await retention.drop(day)
            except asyncpg.LockNotAvailableError:
                log.info("the partitions of %s are in use: they go with a later round", day)
                return
            if dropped:
                self._counters.dropped_days += 1
                log.info("the jobs of %s were dropped: nobody keeps them any longer", day)
        for keeper in retention.keepers:
            gone = await retention.delete(keeper)
            self._counters.expired_jobs += gone
            if gone:
                log.info("%d finished jobs were past their days", gone)
