"""The worker: takes jobs from a server and runs them, until it is told to stop.

    starting ──welcome──► running ──stop──► draining ──all ended or grace over──► stopped

A stop asks for no more jobs, lets those that it has end within `grace_s`, then cancels handlers and
gives the rest back, waits for the last acks and says bye. A second stop ends the grace at once.

Its id is made anew for every `Worker`, unless one is given: then people can assign it to queues and
drain it for good. The server tells processes under one id apart: one that starts again never claims
the leases of the one before, whose jobs it knows nothing of.
"""

import asyncio
import logging
import os
import signal
import socket
import uuid
from collections.abc import Iterable
from time import monotonic
from typing import Any, Literal, get_args

from taskforge import settings
from taskforge.client.schedules import declared
from taskforge.limits import (
    BYE_TIMEOUT_S,
    CONCURRENCY_DEFAULT,
    CONCURRENCY_MAX,
    GRACE_S_DEFAULT,
    THREADS_DEFAULT,
    THREADS_MAX,
    TICK_S,
    WEDGED_AFTER_S,
)
from taskforge.task import Task
from taskforge.version import VERSION
from taskforge.worker import frames
from taskforge.worker.completions import Completions
from taskforge.worker.credit import next_credit
from taskforge.worker.declaring import declare
from taskforge.worker.heartbeat import Heartbeat
from taskforge.worker.lines import Lines
from taskforge.worker.link import Link
from taskforge.worker.parents import Parents
from taskforge.worker.pool import Pool
from taskforge.worker.progress import Words

logger = logging.getLogger("taskforge.worker")

WorkerType = Literal["general", "specialized_cpu", "specialized_io"]
WORKER_TYPES = get_args(WorkerType)


class Worker:
    """Runs the jobs of `tasks`; `run` blocks, `serve` is for a loop that is there already.

    `concurrency` bounds the async handlers in progress, `threads` the sync ones. `queues` are those
    to take jobs from, by default the ones that the tasks name. `url`, `api_key` and
    `ca_file` default to TASKFORGE_URL, TASKFORGE_API_KEY and TASKFORGE_CA_FILE. `worker_type` is
    what queues may ask for; `worker_id` lasts over restarts, for one process at a time.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        tasks: Iterable[Task[..., Any]] = (),
        *,
        concurrency: int = CONCURRENCY_DEFAULT,
        threads: int = THREADS_DEFAULT,
        queues: Iterable[str] | None = None,
        name: str | None = None,
        worker_type: WorkerType = "general",
        worker_id: uuid.UUID | str | None = None,
        grace_s: float = GRACE_S_DEFAULT,
        wedged_after_s: float = WEDGED_AFTER_S,
        ca_file: str | None = None,
    ) -> None:
        self._server = settings.server(url, api_key, ca_file)
        self.tasks = _by_name(tasks)
        self._schedules = declared(self.tasks.values())
        self._declaring: asyncio.Task[None] | None = None
        if not 1 <= concurrency <= CONCURRENCY_MAX:
            raise ValueError(f"concurrency is 1 to {CONCURRENCY_MAX}, not {concurrency}")
        if not 1 <= threads <= THREADS_MAX:
            raise ValueError(f"threads is 1 to {THREADS_MAX}, not {threads}")
        if worker_type not in WORKER_TYPES:
            raise ValueError(f"worker_type is one of {', '.join(WORKER_TYPES)}, not {worker_type}")
        if grace_s < 0:
            raise ValueError("grace_s is 0 or more")
        named = queues if queues is not None else (task.queue for task in self.tasks.values())
        self.queues = sorted(set(named))
        if not self.queues:
            raise ValueError("queues names no queue")
        self.concurrency = concurrency
        self.slots = max(
            concurrency if any(task.is_async for task in self.tasks.values()) else 0,
            threads if any(not task.is_async for task in self.tasks.values()) else 0,
        )
        """Jobs that can be in progress at once: the least credit."""
        self.threads = threads
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.worker_type = worker_type
        self.grace_s = grace_s
        self.worker_id = uuid.UUID(str(worker_id)) if worker_id is not None else uuid.uuid4()
        self._instance = uuid.uuid4().bytes
        self._wedged_after_s = wedged_after_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT. Raises WorkerRefused when the server does not take us."""
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._run_with_signals())

    async def _run_with_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_here)
        await self.serve()

    def stop(self) -> None:
        """Begin to stop, or, the second time, stop waiting for handlers. From any thread."""
        if self._loop is None:
            self._stop_here()
        else:
            self._loop.call_soon_threadsafe(self._stop_here)

    def _stop_here(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def serve(self) -> None:
        """Work until `stop`. Cancelling it gives up at once: the leases then run out."""
        self._loop = loop = asyncio.get_running_loop()
        self._completions = Completions()
        self._parents = Parents(self._server, str(self.worker_id))
        self._lines = Lines(loop, lambda: self._link.flush())
        self._words = Words(loop, lambda: self._link.flush())
        self._pool = Pool(
            self.tasks,
            concurrency=self.concurrency,
            threads=self.threads,
            completions=self._completions,
            on_flush=lambda: self._link.flush(),
            lines=self._lines,
            words=self._words,
            on_extend=lambda token, deadline: self._link.extend(token, deadline),
            parents=self._parents,
        )
        self._link = Link(
            self._server,
            self._pool,
            self._completions,
            self._lines,
            self._words,
            self._hello,
            self._welcomed,
        )
        self._link.set_credit(self.slots)
        self._heartbeat = Heartbeat(
            self._server,
            str(self.worker_id),
            loop,
            self._link.reconnect,
            wedged_after_s=self._wedged_after_s,
        )
        link = asyncio.create_task(self._link.run())
        stop = asyncio.create_task(self._stop.wait())
        ticks = asyncio.create_task(self._tick())
        try:
            await asyncio.wait(
                (link, stop, ticks, self._pool.failure), return_when=asyncio.FIRST_COMPLETED
            )
            for ended in (link, ticks, self._pool.failure):
                if ended.done():
                    ended.result()
            await self._drain(link)
        finally:
            self._heartbeat.stop()
            self._pool.stop_running("shutdown")
            self._pool.close()
            ours = [link, stop, ticks, *([self._declaring] if self._declaring else [])]
            for task in ours:
                task.cancel()
            await asyncio.gather(*ours, return_exceptions=True)
            await self._parents.close()

    async def _drain(self, link: asyncio.Task[None]) -> None:
        """Let what we hold end, give back what does not, and leave."""
        logger.info("stopping: no more jobs, %g s for those that run", self.grace_s)
        pool = self._pool
        self._link.set_credit(0)
        hurry = asyncio.create_task(self._hurry.wait())
        idle = asyncio.create_task(pool.wait_idle())
        await asyncio.wait(
            (hurry, idle, link), timeout=self.grace_s, return_when=asyncio.FIRST_COMPLETED
        )
        hurry.cancel()
        if not idle.done():
            logger.warning("the grace time is over: cancelling handlers")
            pool.give_back_waiting()
            pool.stop_running("shutdown")
            await asyncio.wait(
                (idle, link), timeout=BYE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            idle.cancel()
            pool.abandon_threads()
        pool.flush()
        if not link.done():
            await self._link.finish(BYE_TIMEOUT_S)
        if link.done():
            link.result()
        logger.info("stopped")

    def _hello(self, credit: int, running: bytes) -> bytes:
        return frames.hello(
            worker_id=self.worker_id.bytes,
            name=self.name,
            worker_type=self.worker_type,
            queues=self.queues,
            types=list(self.tasks),
            credit=credit,
            running=running,
            sdk=f"python/{VERSION}",
            instance=self._instance,
        )

    def _welcomed(self, welcome: frames.Welcome) -> None:
        if welcome.body.result_bytes_max:
            self._pool.result_bytes_max = welcome.body.result_bytes_max
        self._heartbeat.start(welcome.body.heartbeat_s)
        if self._schedules and self._declaring is None:
            self._declaring = asyncio.create_task(declare(self._server, self._schedules))

    async def _tick(self) -> None:
        """The coarse clock: deadlines and credit."""
        pool, completions = self._pool, self._completions
        before, finished_jobs = monotonic(), 0
        while True:
            await asyncio.sleep(TICK_S)
            now = monotonic()
            pool.sweep(now)
            if not self._stop.is_set():
                credit = next_credit(
                    credit=self._link.credit,
                    slots=self.slots,
                    finished_jobs=completions.finished_jobs - finished_jobs,
                    elapsed_s=now - before,
                    unacked_jobs=completions.unacked_jobs,
                )
                self._link.set_credit(credit)
            before, finished_jobs = now, completions.finished_jobs


def _by_name(tasks: Iterable[Task[..., Any]]) -> dict[str, Task[..., Any]]:
    """The tasks by their names, compiled: a wrong signature stops the start."""
    found: dict[str, Task[..., Any]] = {}
    for task in tasks:
        if found.get(task.name, task) is not task:
            raise ValueError(f"two tasks have the name {task.name}")
        found[task.name] = task
        _ = task.binding
    if not found:
        raise ValueError("a worker needs at least one task")
    return found


def _loop_factory() -> Any:
    """uvloop's loops where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
