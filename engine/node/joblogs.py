"""Lines of handlers on their way to the table, and the news of it for those who follow.

    add ──► buffer (bounded) ──a batch at a time──► table ──► written: the worker's frame is acked
                 │ full                                └────► news: followers read the table
                 └──► dropped, counted

Followers are told which jobs have new lines, never the lines: they read the table, so what they see
is what a list shows, in one order. Other nodes are told over the cluster. News may be lost; who
follows reads again at an interval.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.joblogs import Written
from taskforge_server.engine.cluster.port import JOB_LOGGED, Cluster
from taskforge_server.engine.errors import EnvironmentalError
from taskforge_server.engine.model.execution import LogLine
from taskforge_server.engine.observe.counters import Counters

log = logging.getLogger(__name__)

ID_BYTES = 16
TAG_BYTES = 8


class LogTable(Protocol):
    """Where lines are kept."""

    async def add(self, lines: Sequence[LogLine]) -> int:
        """Write them; how many were refused for what they hold. Unavailable."""
        ...

    async def delete(self, execution_ids: Sequence[bytes]) -> None:
        """The lines of these, as far as the executions themselves were not kept. Unavailable."""
        ...


class LogNews:
    """Wakes those who follow a job when there are new lines of it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tag = secrets.token_bytes(TAG_BYTES)
        self._followers: dict[bytes, set[asyncio.Event]] = {}
        cluster.subscribe(JOB_LOGGED, self._heard, self._wake_all)

    @contextmanager
    def follow(self, job_id: bytes) -> Iterator[asyncio.Event]:
        """An event that is set when there is something new; the follower clears it."""
        news = asyncio.Event()
        followers = self._followers.setdefault(job_id, set())
        followers.add(news)
        try:
            yield news
        finally:
            followers.discard(news)
            if not followers:
                self._followers.pop(job_id, None)

    def tell(self, job_ids: Iterable[bytes]) -> None:
        """These jobs have new lines in the table."""
        told = list(job_ids)
        self._wake(told)
        self._cluster.publish(JOB_LOGGED, self._tag + b"".join(told[: limits.LOG_NEWS_JOBS_MAX]))

    def _heard(self, message: bytes) -> None:
        if message[:TAG_BYTES] != self._tag:
            starts = range(TAG_BYTES, len(message), ID_BYTES)
            self._wake(message[at : at + ID_BYTES] for at in starts)

    def _wake(self, job_ids: Iterable[bytes]) -> None:
        for job_id in job_ids:
            for news in self._followers.get(job_id, ()):
                news.set()

    def _wake_all(self) -> None:
        self._wake(list(self._followers))


class LogWriter:
    """The buffer of lines, and the task that empties it."""

    def __init__(self, table: LogTable, news: LogNews, counters: Counters) -> None:
        self._table = table
        self._news = news
        self._counters = counters
        self._waiting: deque[tuple[list[LogLine], int, Written]] = deque()
        self._bytes_of: dict[bytes, int] = {}
        self._unkept: list[bytes] = []
        self._some = asyncio.Event()
        self._hurry = asyncio.Event()
        self.bytes_held = 0

    def add(self, lines: list[LogLine], written: Written) -> None:
        """Lines of one project; dropped when too many wait."""
        project_id = lines[0].project_id
        weight = sum(line.weight for line in lines)
        held = self._bytes_of.get(project_id, 0) + weight
        if (
            self.bytes_held + weight > limits.LOG_BUFFER_BYTES_MAX
            or held > limits.LOG_BUFFER_PROJECT_BYTES_MAX
        ):
            self._counters.log_lines_dropped += len(lines)
            written()
            return
        self._bytes_of[project_id] = held
        self.bytes_held += weight
        self._waiting.append((lines, weight, written))
        self._some.set()

    def follow(self, job_id: bytes) -> AbstractContextManager[asyncio.Event]:
        """See `LogNews.follow`."""
        return self._news.follow(job_id)

    async def flush(self) -> None:
        """Return when all that was added before is in the table."""
        if not self._waiting:
            return
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(([], 0, lambda: None if flushed.done() else flushed.set_result(None)))
        self._hurry.set()
        await flushed

    async def run(self) -> None:
        """Write what gathers; while the database is away, it waits."""
        while True:
            await self._some.wait()
            try:
                async with asyncio.timeout(limits.LOG_LINGER_S):
                    await self._hurry.wait()
            except TimeoutError:
                pass  # others have joined the first line
            self._some.clear()
            self._hurry.clear()
            try:
                await self.write()
            except EnvironmentalError as error:
                log.warning("execution logs not written: %s", error)
                self._some.set()
                await asyncio.sleep(limits.LOG_RETRY_S)

    async def write(self) -> None:
        """Write all that waits; what fails keeps its place. Unavailable."""
        while self._waiting:
            taken, lines = 0, list[LogLine]()
            for entry in self._waiting:
                if lines and len(lines) + len(entry[0]) > limits.LOG_WRITE_ROWS:
                    break
                taken += 1
                lines += entry[0]
            if lines:
                refused = await self._table.add(lines)
                self._counters.log_lines_written += len(lines) - refused
                self._counters.log_lines_dropped += refused
            for _ in range(taken):
                self._release(*self._waiting.popleft())
            if lines:
                self._news.tell({line.job_id for line in lines})

    async def delete_unkept(self, execution_ids: Sequence[bytes]) -> None:
        """Delete lines of executions that ended, where their queue did not keep them. What fails
        is tried again with the next."""
        self._unkept += execution_ids
        if self._unkept:
            await self.flush()
        while part := self._unkept[: limits.LOG_DELETE_EXECUTIONS]:
            del self._unkept[: len(part)]
            try:
                await self._table.delete(part)
            except EnvironmentalError:
                self._unkept += part
                raise

    def _release(self, lines: list[LogLine], weight: int, written: Callable[[], None]) -> None:
        self.bytes_held -= weight
        if lines:
            project_id = lines[0].project_id
            left = self._bytes_of[project_id] - weight
            if left:
                self._bytes_of[project_id] = left
            else:
                del self._bytes_of[project_id]
        written()
