"""What handlers logged: pages of it, and following it while the job goes on.

A follower reads the table, from the line that it saw last on, each time that it hears of new lines.
So it sees every line that is kept once, in the order of the list, and what it reads slowly waits in
the table, not in memory.

    read to the end of the table ──job goes on──► wait: news, the job's end, LOG_FOLLOW_READ_S ──┐
        ▲    └──job has ended before the reading──► its status, the end                          │
        └────────────────────────────────────────────────────────────────────────────────────────┘
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from taskforge_server.api.service.jobs import JobService
from taskforge_server.api.service.ports import Engine, JobDict, LogFeed, LogReader
from taskforge_server.engine import limits
from taskforge_server.engine.errors import EnvironmentalError, NotFound
from taskforge_server.engine.model.execution import LogLevel, LogLine
from taskforge_server.engine.model.job import FINAL

log = logging.getLogger(__name__)

GONE = "gone"
"""Instead of a status: the job ended, and its queue keeps no such jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which lines; what is None does not matter."""

    attempt: int | None = None
    level: LogLevel | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """A line, and the attempt that it is of."""

    attempt: int
    line: LogLine


@dataclass(frozen=True, slots=True)
class Ended:
    """The job has ended; there are no more lines."""

    status: str


class JobLogService:
    """The use cases of execution logs; each sees one project only."""

    def __init__(self, engine: Engine, jobs: JobService, logs: LogReader, feed: LogFeed) -> None:
        self._engine = engine
        self._jobs = jobs
        self._logs = logs
        self._feed = feed
        self._reads = asyncio.Semaphore(limits.LOG_FOLLOW_READS_MAX)
        """Of followers; people who list do not wait behind them."""

    async def page(
        self,
        project_id: bytes,
        job_id: bytes,
        wanted: LogFilter,
        after: bytes | None,
        rows_max: int,
    ) -> tuple[list[Logged], bool]:
        """Lines behind `after`, the oldest first, and whether there are more; NotFound."""
        _, executions = await self._jobs.get(project_id, job_id)
        return await self._read(project_id, job_id, executions, wanted, after, rows_max)

    async def follow(
        self, project_id: bytes, job_id: bytes, wanted: LogFilter, after: bytes | None
    ) -> AsyncGenerator[Logged | Ended, None]:
        """All lines behind `after`, those that come too, and at last the end; NotFound."""
        await self._jobs.get(project_id, job_id)
        return self._follow(project_id, job_id, wanted, after)

    async def _follow(
        self, project_id: bytes, job_id: bytes, wanted: LogFilter, after: bytes | None
    ) -> AsyncGenerator[Logged | Ended, None]:
        watched = True
        with self._feed.follow(job_id) as news:
            while True:
                news.clear()
                try:
                    async with self._reads:
                        job, executions = await self._jobs.get(project_id, job_id)
                    ended = job["status"] in FINAL
                    if ended:
                        await self._written()
                    more = True
                    while more:
                        async with self._reads:
                            lines, more = await self._read(
                                project_id,
                                job_id,
                                executions,
                                wanted,
                                after,
                                limits.PAGE_ROWS_DEFAULT,
                            )
                        for logged in lines:
                            yield logged
                            after = logged.line.id
                except NotFound:
                    yield Ended(GONE)
                    return
                except EnvironmentalError as error:
                    log.info("a follower waits: %s", error)
                    await asyncio.sleep(limits.LOG_RETRY_S)
                    continue
                if ended:
                    yield Ended(job["status"])
                    return
                watched = await self._wait(job_id, news, watched)
                # What is logged in quick succession is read together.
                await asyncio.sleep(limits.LOG_FOLLOW_PAUSE_S)

    async def _read(
        self,
        project_id: bytes,
        job_id: bytes,
        executions: list[JobDict],
        wanted: LogFilter,
        after: bytes | None,
        rows_max: int,
    ) -> tuple[list[Logged], bool]:
        attempts = {
            execution["id"]: execution["attempt_number"]
            for execution in executions
            if wanted.attempt in (None, execution["attempt_number"])
        }
        if not attempts:
            return [], False
        lines, more = await self._logs.page(
            project_id, job_id, list(attempts), wanted.level, after, rows_max
        )
        lines = await self._jobs.opener.lines(project_id, lines)
        return [Logged(attempts[line.execution_id], line) for line in lines], more

    async def _written(self) -> None:
        """Lines that came before the end of their job are in the table, if it can be had."""
        try:
            async with asyncio.timeout(limits.LOG_FLUSH_S):
                await self._feed.flush()
        except TimeoutError:
            pass  # they come with a later list

    async def _wait(self, job_id: bytes, news: asyncio.Event, watched: bool) -> bool:
        """Wait for something to read. False: whether the job has ended cannot be waited for here,
        for another node has it; the next wait is for news and time alone."""
        heard = asyncio.ensure_future(news.wait())
        waits: set[asyncio.Future[object]] = {heard}  # type: ignore[arg-type]
        ended = None
        if watched:
            ended = asyncio.ensure_future(
                self._engine.wait_finished(job_id, 2 * limits.LOG_FOLLOW_READ_S)
            )
            waits.add(ended)  # type: ignore[arg-type]
        try:
            await asyncio.wait(
                waits, timeout=limits.LOG_FOLLOW_READ_S, return_when=asyncio.FIRST_COMPLETED
            )
            return ended is None or not ended.done()
        finally:
            for future in waits:
                future.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
