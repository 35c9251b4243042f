"""Tells the server the schedules that the tasks of a worker declare.

Once for a worker, when it is connected for the first time: one that comes back after a broken
connection may be older than those that were started since. What is refused is logged, and the
worker runs its jobs all the same.
"""

import logging
from collections.abc import Sequence

from taskforge.client.async_caller import AsyncCaller
from taskforge.client.calls import Call
from taskforge.client.schedules import Schedule
from taskforge.errors import TaskForgeError
from taskforge.limits import DECLARE_RETRIES, REQUEST_TIMEOUT_S
from taskforge.settings import Server

logger = logging.getLogger("taskforge.worker")


async def declare(server: Server, calls: Sequence[Call[Schedule]]) -> None:
    """Make these calls, one after the other."""
    async with AsyncCaller(server, DECLARE_RETRIES, REQUEST_TIMEOUT_S) as caller:
        for call in calls:
            try:
                row = await caller.execute(call)
            except TaskForgeError as error:
                logger.error("%s %s was not done: %s", call.method, call.path, error)
            else:
                following = "paused" if row.paused else f"next {row.next_at}"
                logger.info("schedule %s: %s %s, %s", row.name, row.cron, row.timezone, following)
