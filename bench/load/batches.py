"""A load client for batches: few connections, a bounded window of jobs that are not over.

    connection:  wait for room in the window ──► send a batch ──► whole reply, checked ──► again

How many of its jobs are over it learns from the queue's counts, which it asks for at an interval:

    over >= acknowledged before the question - unfinished in the answer

so the window is never exceeded, and real backlogs are a little smaller. It asks only while a batch
waits for room. It also waits while more than `--unprojected` jobs are not in the tables, by the
node's metrics: a load that the projector does not keep up with is not sustained. Bodies are
prebuilt. Every reply is checked: status, no errors, 16 bytes of id for each job. A refused batch
(429, 503) is sent again after a pause, and counted.

Stops on SIGTERM, after `--jobs` jobs, or at an error; prints a JSON object at its end.
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field

import msgspec
import uvloop

from bench.load import bodies
from bench.load.raw_http import post

BODIES = 8
POLL_S = 0.02
METRICS_S = 0.25
UNPROJECTED = re.compile(rb"^taskforge_jobs_unprojected (\S+)$", re.MULTILINE)
REFUSED_PAUSE_S = 0.05
MSGPACK = ("Content-Type: application/msgpack", "Accept: application/msgpack")


class Ids(msgspec.Struct):
    """The reply to a batch."""

    ids: bytes
    errors: dict[int, object]


_ids = msgspec.msgpack.Decoder(Ids).decode


@dataclass(slots=True)
class Totals:
    """What this client did."""

    submitted: int = 0
    requests: int = 0
    refused: int = 0
    calls_ms: list[float] = field(default_factory=list)


class Window:
    """How many jobs may be unfinished; 0: no bound."""

    def __init__(self, most: int, jobs_max: int) -> None:
        self.most = most
        self.left = jobs_max or sys.maxsize
        self.sent = 0
        self.acknowledged = 0
        self.over = 0
        self.held = False
        self.full = asyncio.Event()
        """A batch waits for jobs to be over."""
        self._changed = asyncio.Event()
        self.stopped = False

    async def take(self, jobs: int) -> bool:
        """Wait for room for so many jobs; False: stop."""
        while not self.stopped and self.left > 0:
            if not self.held and (not self.most or self.sent - self.over + jobs <= self.most):
                self.sent += jobs
                self.left -= jobs
                return True
            if not self.held:
                self.full.set()
            self._changed.clear()
            await self._changed.wait()
        return False

    def give_back(self, jobs: int) -> None:
        """They were refused."""
        self.sent -= jobs
        self.left += jobs

    def learn(self, over: int) -> None:
        """So many jobs at least are over."""
        self.over = max(self.over, over)
        self._changed.set()

    def hold(self, held: bool) -> None:
        """Send nothing for now, or go on."""
        self.held = held
        if not held:
            self._changed.set()

    def stop(self) -> None:
        self.stopped = True
        self._changed.set()


class Http:
    """One keep-alive connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Http":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the reply."""
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        at = head.index(b"content-length:") + len(b"content-length:")
        length = int(head[at : head.index(b"\r\n", at)])
        return int(head[9:12]), await self._reader.readexactly(length)


async def submit(
    http: Http, requests: list[bytes], jobs: int, window: Window, seen: Totals
) -> None:
    """Batch after batch over one connection."""
    number = 0
    while await window.take(jobs):
        begun = time.perf_counter()
        status, body = await http.call(requests[number % len(requests)])
        number += 1
        seen.requests += 1
        if status in (429, 503):
            seen.refused += 1
            window.give_back(jobs)
            await asyncio.sleep(REFUSED_PAUSE_S)
            continue
        if status not in (200, 201):
            raise RuntimeError(f"status {status}: {body[:500]!r}")
        reply = _ids(body)
        if reply.errors or len(reply.ids) != 16 * jobs:
            raise RuntimeError(f"{len(reply.ids) // 16} ids of {jobs}, errors {reply.errors}")
        seen.calls_ms.append((time.perf_counter() - begun) * 1000)
        seen.submitted += jobs
        window.acknowledged += jobs


async def watch(http: Http, request: bytes, window: Window) -> None:
    """Keep the window informed while it is full."""
    while True:
        await window.full.wait()
        window.full.clear()
        before = window.acknowledged
        status, body = await http.call(request)
        if status != 200:
            raise RuntimeError(f"status {status}: {body[:500]!r}")
        window.learn(before - sum(msgspec.json.decode(body)["counts"].values()))
        await asyncio.sleep(POLL_S)


async def watch_tables(http: Http, request: bytes, most: int, window: Window) -> None:
    """Hold the window while the tables are too far behind."""
    while True:
        status, body = await http.call(request)
        found = UNPROJECTED.search(body)
        if status != 200 or found is None:
            raise RuntimeError(f"status {status}: {body[:500]!r}")
        window.hold(float(found.group(1)) > most)
        await asyncio.sleep(METRICS_S)


def get(path: str, key: str) -> bytes:
    """The bytes of a GET request."""
    lines = (f"GET {path} HTTP/1.1", "Host: bench", f"Authorization: Bearer {key}", "", "")
    return "\r\n".join(lines).encode()


async def watching(
    options: argparse.Namespace, window: Window, path: str
) -> list[Coroutine[None, None, None]]:
    """What keeps the window informed, each over a connection of its own."""
    found: list[Coroutine[None, None, None]] = []
    if options.window:
        http = await Http.open(options.port)
        found.append(watch(http, get(path, options.key), window))
    if options.unprojected:
        http = await Http.open(options.port)
        metrics = get("/metrics", options.key)
        found.append(watch_tables(http, metrics, options.unprojected, window))
    return found


async def run(options: argparse.Namespace) -> Totals:
    window, seen = Window(options.window, options.jobs), Totals()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, window.stop)
    path = f"/v1/queues/{options.queue}"
    requests = [
        post(
            "bench",
            f"{path}/jobs/batch",
            bodies.batch(options.job_type, options.batch, number * options.batch),
            options.key,
            *MSGPACK,
        )
        for number in range(BODIES)
    ]
    async with asyncio.TaskGroup() as tasks:
        submits = [
            tasks.create_task(
                submit(await Http.open(options.port), requests, options.batch, window, seen)
            )
            for _ in range(options.connections)
        ]
        watchers = [tasks.create_task(watcher) for watcher in await watching(options, window, path)]
        await asyncio.wait(submits, return_when=asyncio.FIRST_EXCEPTION)
        for watcher in watchers:
            watcher.cancel()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--job-type", default="noop")
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--window", type=int, default=0)
    parser.add_argument("--unprojected", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=0)
    seen = uvloop.run(run(parser.parse_args()))
    totals = asdict(seen)
    calls = sorted(totals.pop("calls_ms"))
    totals["call_p50_ms"] = calls[len(calls) // 2] if calls else None
    totals["call_p99_ms"] = calls[int(len(calls) * 0.99)] if calls else None
    print(json.dumps(totals))


if __name__ == "__main__":
    main()
